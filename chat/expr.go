package chat

import "slices"

// expr is an expression node with its meaning.
type expr interface {
	eval(in *interp) (value, error)
}

type constExpr struct{ v value }

func (e *constExpr) eval(*interp) (value, error) { return e.v, nil }

type nameExpr struct{ name string }

func (e *nameExpr) eval(in *interp) (value, error) { return in.scope.lookup(e.name), nil }

// bodyExpr is the text captured by a set or filter block.
type bodyExpr struct{}

const bodyName = " body" // no template can write this name

func (e *bodyExpr) eval(in *interp) (value, error) { return in.scope.lookup(bodyName), nil }

type listExpr struct {
	items []expr
	tuple bool
}

func (e *listExpr) eval(in *interp) (value, error) {
	items, err := in.evalAll(e.items)
	if err != nil {
		return nil, err
	}
	return &list{items, e.tuple}, in.elements(len(items))
}

func (in *interp) evalAll(es []expr) ([]value, error) {
	vals := make([]value, len(es))
	for i, e := range es {
		var err error
		if vals[i], err = in.eval(e); err != nil {
			return nil, err
		}
	}
	return vals, nil
}

type dictExpr struct{ keys, vals []expr }

func (e *dictExpr) eval(in *interp) (value, error) {
	d := newDict()
	for i := range e.keys {
		k, err := in.eval(e.keys[i])
		if err != nil {
			return nil, err
		}
		v, err := in.eval(e.vals[i])
		if err != nil {
			return nil, err
		}
		if !d.set(k, v) {
			return nil, errorf("unhashable type: '%s'", typeName(k))
		}
	}
	return d, in.elements(len(e.keys))
}

// condExpr is "then if cond else otherwise".
type condExpr struct{ then, cond, otherwise expr }

func (e *condExpr) eval(in *interp) (value, error) {
	c, err := in.eval(e.cond)
	switch {
	case err != nil:
		return nil, err
	case truthy(c):
		return in.eval(e.then)
	case e.otherwise != nil:
		return in.eval(e.otherwise)
	}
	return undefined{"the inline if-expression evaluated to false and no else section was defined"}, nil
}

// logicExpr is a chain of "and" or of "or"; as in Python it yields an operand.
type logicExpr struct {
	or    bool
	items []expr
}

func (e *logicExpr) eval(in *interp) (v value, err error) {
	for _, item := range e.items {
		if v, err = in.eval(item); err != nil || truthy(v) == e.or {
			return v, err
		}
	}
	return v, nil
}

type notExpr struct{ x expr }

func (e *notExpr) eval(in *interp) (value, error) {
	v, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	return !truthy(v), nil
}

// chainExpr is first op rest op rest …
type chainExpr struct {
	first expr
	ops   []string
	rest  []expr
}

// compareExpr is Python's chained comparison: a < b < c.
type compareExpr struct{ *chainExpr }

func (e *compareExpr) eval(in *interp) (value, error) {
	left, err := in.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := in.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := in.compare(op, left, right)
		if err != nil || !ok {
			return false, err
		}
		left = right
	}
	return true, nil
}

// arithExpr is a left-associative chain of arithmetic.
type arithExpr struct{ *chainExpr }

func (e *arithExpr) eval(in *interp) (value, error) {
	left, err := in.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := in.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		if left, err = in.arith(op, left, right); err != nil {
			return nil, err
		}
	}
	return left, nil
}

type concatExpr struct{ items []expr }

func (e *concatExpr) eval(in *interp) (value, error) {
	parts := make([]text, len(e.items))
	for i, item := range e.items {
		v, err := in.eval(item)
		if err != nil {
			return nil, err
		}
		if parts[i], err = in.toText(v); err != nil {
			return nil, err
		}
	}
	return in.join(parts...)
}

type signExpr struct {
	minus bool
	x     expr
}

func (e *signExpr) eval(in *interp) (value, error) {
	v, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	op := "+"
	if e.minus {
		op = "-"
	}
	if _, ok := asFloat(v); !ok {
		return nil, operandError("unary "+op, v)
	}
	if f, ok := v.(float64); ok && e.minus {
		return -f, nil
	}
	return in.arith(op, int64(0), v)
}

// attrExpr is x.name: a method or attribute first, then an item.
type attrExpr struct {
	x    expr
	name string
}

func (e *attrExpr) eval(in *interp) (value, error) {
	x, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	return in.attr(x, e.name)
}

// itemExpr is x[index]: an item first, then a method or attribute.
type itemExpr struct{ x, index expr }

func (e *itemExpr) eval(in *interp) (value, error) {
	x, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	index, err := in.eval(e.index)
	if err != nil {
		return nil, err
	}
	return in.item(x, index)
}

// sliceExpr is x[start:stop:step].
type sliceExpr struct {
	x      expr
	bounds [3]expr // nil where omitted
}

func (e *sliceExpr) eval(in *interp) (value, error) {
	x, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	var bounds [3]value
	for i, b := range e.bounds {
		bounds[i] = none{}
		if b != nil {
			if bounds[i], err = in.eval(b); err != nil {
				return nil, err
			}
		}
	}
	return in.slice(x, bounds)
}

// callArgs are the arguments of a call as written.
type callArgs struct {
	pos  []expr
	keys []string
	vals []expr

	star, starStar expr // *list and **mapping; nil where there is none
}

// args are the arguments of a call, evaluated.
type args struct {
	pos  []value
	keys []string
	vals []value
}

func (c *callArgs) eval(in *interp) (a args, err error) {
	a.keys = c.keys
	if a.pos, err = in.evalAll(c.pos); err != nil {
		return a, err
	}
	if a.vals, err = in.evalAll(c.vals); err != nil {
		return a, err
	}
	return a, c.unpack(in, &a)
}

// unpack adds the arguments that *list and **mapping stand for.
func (c *callArgs) unpack(in *interp, a *args) error {
	if c.star != nil {
		v, err := in.eval(c.star)
		if err != nil {
			return err
		}
		items, err := in.items(v)
		if err != nil {
			return err
		}
		a.pos = append(a.pos, items...)
	}
	if c.starStar == nil {
		return nil
	}
	v, err := in.eval(c.starStar)
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok {
		return errorf("the argument after ** must be a mapping, not %s", typeName(v))
	}
	a.keys = slices.Clip(a.keys)
	for i, k := range d.keys {
		name, ok := k.(text)
		if !ok || slices.Contains(a.keys, name.s) {
			return errorf("keywords must be strings, each given once")
		}
		a.keys, a.vals = append(a.keys, name.s), append(a.vals, d.vals[i])
	}
	return in.elements(len(d.keys))
}

// bind orders arguments by parameter; a nil entry was not given.
func (a args) bind(fn string, params []string) ([]value, error) {
	if len(a.pos) > len(params) {
		return nil, errorf("%s() takes at most %d arguments, %d given", fn, len(params), len(a.pos))
	}
	out := make([]value, len(params))
	copy(out, a.pos)
	for i, k := range a.keys {
		at := slices.Index(params, k)
		if at < 0 {
			return nil, errorf("%s() has no parameter '%s'", fn, k)
		}
		if out[at] != nil {
			return nil, errorf("%s() got two values for '%s'", fn, k)
		}
		out[at] = a.vals[i]
	}
	return out, nil
}

type callExpr struct {
	fn   expr
	args callArgs
}

func (e *callExpr) eval(in *interp) (value, error) { return e.run(in, nil) }

// run calls, with a block as the caller if there is one.
func (e *callExpr) run(in *interp, caller *macro) (value, error) {
	fn, err := in.eval(e.fn)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(in)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		a.keys, a.vals = append(slices.Clip(a.keys), "caller"), append(a.vals, caller)
	}
	switch fn := fn.(type) {
	case *function:
		return fn.call(in, a)
	case *macro:
		return fn.call(in, a)
	case undefined:
		return nil, errorf("%s", fn.what)
	}
	return nil, errorf("'%s' object is not callable", typeName(fn))
}

type filterExpr struct {
	x    expr
	name string
	args callArgs
}

func (e *filterExpr) eval(in *interp) (value, error) {
	x, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(in)
	if err != nil {
		return nil, err
	}
	return in.filter(e.name, x, a)
}

type testExpr struct {
	x    expr
	name string
	args callArgs
}

func (e *testExpr) eval(in *interp) (value, error) {
	x, err := in.eval(e.x)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(in)
	if err != nil {
		return nil, err
	}
	return in.test(e.name, x, a.pos)
}
