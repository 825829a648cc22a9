package server

import "testing"

// A client that varies its cache_salt stays one client to fairness.
func TestSaltsDoNotMakeTenants(t *testing.T) {
	k, err := newKeyring([]string{"one", "two"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.salt(0, "a") == k.salt(0, "b") {
		t.Error("two cache salts of one key share blocks")
	}
	if k.owner(0) == k.owner(1) || k.owner(0) == "" {
		t.Errorf("keys are charged to %q and %q", k.owner(0), k.owner(1))
	}
}
