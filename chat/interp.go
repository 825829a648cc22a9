package chat

import (
	"errors"
	"fmt"
	"time"
)

// interp is one render in progress.
type interp struct {
	budget
	scope  *scope
	out    *textBuilder
	now    func() time.Time
	line   int // of the statement being run, for errors
	frames int // evaluator frames in flight
	calls  int // macro calls in flight
}

// scope is a chain of variable tables.
type scope struct {
	vars   map[string]value
	parent *scope
}

func (s *scope) lookup(name string) value {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if g, ok := globals[name]; ok {
		return g
	}
	return undefined{fmt.Sprintf("'%s' is undefined", name)}
}

func (s *scope) set(name string, v value) {
	if s.vars == nil {
		s.vars = map[string]value{}
	}
	s.vars[name] = v
}

// push opens a scope; the returned function closes it.
func (in *interp) push() func() {
	outer := in.scope
	in.scope = &scope{parent: outer}
	return func() { in.scope = outer }
}

// frame counts one evaluator frame; callers pair it with in.frames--.
func (in *interp) frame() error {
	if in.frames++; in.frames > maxFrames {
		return nestingError(maxFrames)
	}
	return in.step(1)
}

func (in *interp) eval(e expr) (value, error) {
	if err := in.frame(); err != nil {
		return nil, err
	}
	v, err := e.eval(in)
	in.frames--
	return v, err
}

func (in *interp) execAll(body []stmt) error {
	for _, s := range body {
		if err := in.frame(); err != nil {
			return err
		}
		if err := s.exec(in); err != nil {
			return err
		}
		in.frames--
	}
	return nil
}

// capture runs body with output into a text of its own.
func (in *interp) capture(body []stmt) (text, error) {
	outer := in.out
	in.out = &textBuilder{}
	err := in.execAll(body)
	t := in.out.text()
	in.out = outer
	return t, err
}

// write prints t.
func (in *interp) write(t text) error {
	if in.out.len()+len(t.s) > in.maxText {
		return in.grow(in.out.len() + len(t.s))
	}
	if err := in.touch(t.weight()); err != nil {
		return err
	}
	in.out.add(t)
	return nil
}

// join concatenates texts, charged.
func (in *interp) join(parts ...text) (text, error) {
	n, w := 0, 0
	for _, p := range parts {
		n, w = n+len(p.s), w+p.weight()
		if n > in.maxText {
			break
		}
	}
	if err := in.grow(n); err != nil {
		return text{}, err
	}
	if err := in.touch(w); err != nil {
		return text{}, err
	}
	var b textBuilder
	b.b.Grow(n)
	for _, p := range parts {
		b.add(p)
	}
	return b.text(), nil
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// raised carries raise_exception's words up to locate.
type raised struct{ message string }

func (r raised) Error() string { return r.message }

// locate adds the line to an error.
func (in *interp) locate(err error) error {
	var r raised
	if errors.As(err, &r) {
		return &TemplateError{in.line, r.message}
	}
	return &RenderError{in.line, err}
}
