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

// Set returns the prompts of a set.
func Set(name string) ([]string, error) {
	data, err := files.ReadFile(name + ".txt")
	if err != nil {
		return nil, fmt.Errorf("there is no prompt set %q; there are %v", name, Names())
	}
	var out []string
	for _, p := range strings.Split(string(data), "\n===\n") {
		out = append(out, strings.TrimSpace(p))
	}
	return out, nil
}
