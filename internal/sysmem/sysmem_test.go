package sysmem

import "testing"

func TestAvailableIsPlausible(t *testing.T) {
	n, err := Available()
	if err != nil {
		t.Fatal(err)
	}
	if n < 64<<20 || n > 1<<50 {
		t.Fatalf("%d bytes free", n)
	}
}
