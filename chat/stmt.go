package chat

import (
	"errors"
	"slices"
)

// stmt is a statement node with its meaning.
type stmt interface{ exec(in *interp) error }

var (
	errBreak    = errors.New("break outside a loop")
	errContinue = errors.New("continue outside a loop")
)

type outputStmt struct {
	line int
	e    expr
}

func (s *outputStmt) exec(in *interp) error {
	in.line = s.line
	v, err := in.eval(s.e)
	if err != nil {
		return err
	}
	t, err := in.toText(v)
	if err != nil {
		return err
	}
	return in.write(t)
}

type ifArm struct {
	line int
	cond expr
	body []stmt
}

type ifStmt struct {
	arms      []ifArm
	otherwise []stmt
}

func (s *ifStmt) exec(in *interp) error {
	for _, arm := range s.arms {
		in.line = arm.line
		v, err := in.eval(arm.cond)
		if err != nil {
			return err
		}
		if truthy(v) {
			return in.execAll(arm.body)
		}
	}
	return in.execAll(s.otherwise)
}

// jumpStmt is break or continue: its error unwinds to the loop.
type jumpStmt struct{ err error }

func (s jumpStmt) exec(*interp) error { return s.err }

type forStmt struct {
	line            int
	target          *target
	iter, test      expr
	body, otherwise []stmt
}

func (s *forStmt) exec(in *interp) error {
	in.line = s.line
	seq, err := in.eval(s.iter)
	if err != nil {
		return err
	}
	items, err := in.items(seq)
	if err != nil {
		return err
	}
	if s.test != nil {
		if items, err = s.filtered(in, items); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		defer in.push()()
		return in.execAll(s.otherwise)
	}
	return s.rounds(in, items)
}

// filtered keeps the items that pass the loop's own if.
func (s *forStmt) filtered(in *interp, items []value) ([]value, error) {
	var kept []value
	for _, item := range items {
		pop := in.push()
		err := s.target.assign(in, item)
		var ok value
		if err == nil {
			ok, err = in.eval(s.test)
		}
		pop()
		if err != nil {
			return nil, err
		}
		if truthy(ok) {
			kept = append(kept, item)
		}
	}
	return kept, in.elements(len(kept))
}

func (s *forStmt) rounds(in *interp, items []value) error {
	l := &loop{items: items}
	frames, outer := in.frames, in.scope
	for l.i = range items {
		in.scope = &scope{parent: outer}
		in.scope.set("loop", l)
		err := s.target.assign(in, items[l.i])
		if err == nil {
			err = in.execAll(s.body)
		}
		in.scope = outer
		if err == errBreak || err == errContinue {
			in.frames = frames
		}
		if err == errBreak {
			return nil
		}
		if err != nil && err != errContinue {
			return err
		}
		if err := in.step(1); err != nil {
			return err
		}
	}
	return nil
}

// target is what for and set assign to: a name, name.attr, or a tuple.
type target struct {
	name, attr string
	items      []*target
}

func (t *target) assign(in *interp, v value) error {
	if t.items != nil {
		vals, err := in.items(v)
		if err != nil {
			return err
		}
		if len(vals) != len(t.items) {
			return errorf("cannot unpack %d values into %d names", len(vals), len(t.items))
		}
		for i, item := range t.items {
			if err := item.assign(in, vals[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if t.attr == "" {
		in.scope.set(t.name, v)
		return nil
	}
	ns, ok := in.scope.lookup(t.name).(*namespace)
	if !ok {
		return errorf("cannot assign attribute on non-namespace object '%s'", t.name)
	}
	ns.vars[t.attr] = v
	return nil
}

type setStmt struct {
	line   int
	target *target
	e      expr
}

func (s *setStmt) exec(in *interp) error {
	in.line = s.line
	v, err := in.eval(s.e)
	if err != nil {
		return err
	}
	return s.target.assign(in, v)
}

// captureStmt is {% set x %}…{% endset %}, or without target {% filter %}.
type captureStmt struct {
	line    int
	target  *target
	filters expr // applied to bodyExpr
	body    []stmt
}

func (s *captureStmt) exec(in *interp) error {
	pop := in.push()
	t, err := in.capture(s.body)
	if err == nil {
		in.line = s.line
		in.scope.set(bodyName, t)
	}
	var v value
	if err == nil {
		v, err = in.eval(s.filters)
	}
	pop()
	if err != nil {
		return err
	}
	if s.target != nil {
		return s.target.assign(in, v)
	}
	if t, err = in.toText(v); err != nil {
		return err
	}
	return in.write(t)
}

// scopeStmt is {% with %} or {% generation %}: a body with a scope of its own.
type scopeStmt struct {
	line    int
	targets []*target
	values  []expr
	body    []stmt
}

func (s *scopeStmt) exec(in *interp) error {
	in.line = s.line
	vals := make([]value, len(s.values))
	for i, e := range s.values {
		var err error
		if vals[i], err = in.eval(e); err != nil {
			return err
		}
	}
	defer in.push()()
	for i, t := range s.targets {
		if err := t.assign(in, vals[i]); err != nil {
			return err
		}
	}
	return in.execAll(s.body)
}

type macroStmt struct {
	line     int
	name     string
	params   []string
	defaults []expr // nil where there is none
	body     []stmt

	varargs, kwargs, caller bool // what it takes besides params
}

func (s *macroStmt) exec(in *interp) error {
	in.scope.set(s.name, &macro{s, in.scope})
	return nil
}

// call runs the macro; its output is its value.
func (m *macro) call(in *interp, a args) (value, error) {
	if in.calls++; in.calls > maxCalls {
		return nil, nestingError(maxCalls)
	}
	line, caller := in.line, in.scope
	in.scope = &scope{parent: m.scope}
	err := m.bind(in, a)
	var t text
	if err == nil {
		t, err = in.capture(m.def.body)
	}
	in.scope = caller
	if err == nil {
		in.line = line
		in.calls--
	}
	return t, err
}

// callStmt is {% call macro() %} body {% endcall %}.
type callStmt struct {
	line int
	call *callExpr
	body *macroStmt
}

func (s *callStmt) exec(in *interp) error {
	in.line = s.line
	v, err := s.call.run(in, &macro{s.body, in.scope})
	if err != nil {
		return err
	}
	t, err := in.toText(v)
	if err != nil {
		return err
	}
	return in.write(t)
}

// special sets varargs, kwargs and caller in the macro's scope and returns the other arguments.
func (m *macro) special(in *interp, a args) (args, error) {
	rest := args{pos: a.pos}
	if n := len(m.def.params); m.def.varargs {
		rest.pos = a.pos[:min(n, len(a.pos))]
		in.scope.set("varargs", &list{a.pos[len(rest.pos):], true})
	}
	if m.def.caller {
		in.scope.set("caller", undefined{"No caller defined"})
	}
	more := newDict()
	for i, k := range a.keys {
		switch {
		case slices.Contains(m.def.params, k):
			rest.keys, rest.vals = append(rest.keys, k), append(rest.vals, a.vals[i])
		case k == "caller" && m.def.caller:
			in.scope.set(k, a.vals[i])
		case m.def.kwargs:
			more.put(k, a.vals[i])
		default:
			return a, errorf("%s() has no parameter '%s'", m.def.name, k)
		}
	}
	if m.def.kwargs {
		in.scope.set("kwargs", more)
	}
	return rest, in.elements(len(a.pos) + len(a.keys))
}

// bind sets the parameters in the macro's scope.
func (m *macro) bind(in *interp, a args) error {
	a, err := m.special(in, a)
	if err != nil {
		return err
	}
	vals, err := a.bind(m.def.name, m.def.params)
	if err != nil {
		return err
	}
	for i, v := range vals {
		if v == nil && m.def.defaults[i] != nil {
			if v, err = in.eval(m.def.defaults[i]); err != nil {
				return err
			}
		}
		if v == nil {
			v = undefined{"parameter '" + m.def.params[i] + "' was not provided"}
		}
		in.scope.set(m.def.params[i], v)
	}
	return nil
}
