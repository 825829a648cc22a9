package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

var makers = map[string]func(Options) (Backend, error){}

// Register makes a backend known by name; sestina/backend/all imports them all.
func Register(name string, make func(Options) (Backend, error)) {
	if _, dup := makers[name]; dup {
		panic("backend registered twice: " + name)
	}
	makers[name] = make
}

// Names lists the registered backends, sorted.
func Names() []string { return slices.Sorted(maps.Keys(makers)) }

// Open makes a backend by name.
func Open(name string, opt Options) (Backend, error) {
	m, ok := makers[name]
	if !ok {
		return nil, fmt.Errorf("backend %q is not built; built: %s", name, strings.Join(Names(), ", "))
	}
	return m(opt)
}
