// Package prompts holds the texts that benchmarks ask for, written for this
// project: five kinds of work that differ in how far an answer can be foreseen.
// Each set is a text file whose prompts are separated by lines of three equals signs.
package prompts

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed *.txt
var files embed.FS

// Names lists the sets.
func Names() []string { return []string{"chat", "code", "edit", "json", "poetry"} }

// Mixed is the set of all sets' prompts, one of each in turn.
const Mixed = "mixed"

// Set returns the prompts of a set.
func Set(name string) ([]string, error) {
	if name == Mixed {
		return mixed()
	}
	data, err := files.ReadFile(name + ".txt")
	if err != nil {
		return nil, fmt.Errorf("there is no prompt set %q; there are %v and %s", name, Names(), Mixed)
	}
	var out []string
	for _, p := range strings.Split(string(data), "\n===\n") {
		out = append(out, strings.TrimSpace(p))
	}
	return out, nil
}

func mixed() (out []string, err error) {
	for i, more := 0, true; more; i++ {
		more = false
		for _, name := range Names() {
			set, err := Set(name)
			if err != nil {
				return nil, err
			}
			if i < len(set) {
				out, more = append(out, set[i]), true
			}
		}
	}
	return out, nil
}
