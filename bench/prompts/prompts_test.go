package prompts

import (
	"strings"
	"testing"
)

// Every file is a named set of six different prompts, and every name a file.
func TestSets(t *testing.T) {
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(Names()) {
		t.Errorf("%d files, names %v", len(entries), Names())
	}
	seen := map[string]bool{}
	for _, name := range Names() {
		set, err := Set(name)
		if err != nil || len(set) != 6 {
			t.Errorf("set %s has %d prompts (%v), want 6", name, len(set), err)
		}
		for _, p := range set {
			if p == "" || seen[p] || strings.Contains(p, "===") {
				t.Errorf("%s: empty, repeated or badly separated: %q", name, p)
			}
			seen[p] = true
		}
	}
	all, err := Set(Mixed)
	if err != nil || len(all) != len(seen) {
		t.Errorf("%d mixed prompts of %d (%v)", len(all), len(seen), err)
	}
	for i, p := range all {
		if set, _ := Set(Names()[i%len(Names())]); !seen[p] || set[i/len(Names())] != p {
			t.Errorf("mixed prompt %d is not the turn of set %s", i, Names()[i%len(Names())])
		}
	}
	if _, err := Set("../prompts"); err == nil {
		t.Error("a set that does not exist was found")
	}
}
