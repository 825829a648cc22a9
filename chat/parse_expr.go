package chat

import (
	"math"
	"strconv"
	"strings"
)

// Precedence, loosest first: if-else, or, and, not, comparisons, + -, ~,
// * / // %, **, unary signs, postfix, filters and tests. Chains become flat
// nodes, so that evaluation depth follows the nesting of the source alone.

func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.or()
	if err != nil || !p.skipName("if") {
		return e, err
	}
	c := &condExpr{then: e}
	if c.cond, err = p.or(); err != nil {
		return nil, err
	}
	if p.skipName("else") {
		if c.otherwise, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if p.isName("if") {
		return nil, p.errorf("chained inline 'if' without 'else'; add parentheses")
	}
	return c, nil
}

// tuple parses an expression, or several with commas. Without conditionals it
// leaves a following 'if' alone (for … if …).
func (p *parser) tuple(conditional bool) (expr, error) {
	one := p.or
	if conditional {
		one = p.expression
	}
	first, err := one()
	if err != nil || !p.isOp(",") {
		return first, err
	}
	t := &listExpr{items: []expr{first}, tuple: true}
	for p.skipOp(",") {
		if k := p.cur().kind; k == tokVarEnd || k == tokBlockEnd || p.isOp(")") || p.isOp("]") {
			break
		}
		e, err := one()
		if err != nil {
			return nil, err
		}
		t.items = append(t.items, e)
	}
	return t, nil
}

func (p *parser) or() (expr, error) {
	return p.logic("or", func() (expr, error) { return p.logic("and", p.not) })
}

// logic parses a chain of one word operator.
func (p *parser) logic(word string, operand func() (expr, error)) (expr, error) {
	first, err := operand()
	if err != nil || !p.isName(word) {
		return first, err
	}
	chain := &logicExpr{or: word == "or", items: []expr{first}}
	for p.skipName(word) {
		e, err := operand()
		if err != nil {
			return nil, err
		}
		chain.items = append(chain.items, e)
	}
	return chain, nil
}

func (p *parser) not() (expr, error) {
	if !p.skipName("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.not()
	return &notExpr{e}, err
}

func (p *parser) compare() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	chain := &chainExpr{first: first}
	for {
		op := p.compareOp()
		if op == "" {
			break
		}
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		chain.ops, chain.rest = append(chain.ops, op), append(chain.rest, e)
	}
	if len(chain.ops) == 0 {
		return first, nil
	}
	return &compareExpr{chain}, nil
}

// compareOp consumes a comparison operator, or returns "".
func (p *parser) compareOp() string {
	t := p.cur()
	switch {
	case t.kind == tokOp:
		switch t.text {
		case "==", "!=", "<", "<=", ">", ">=":
			return p.next().text
		}
	case t.kind == tokName && t.text == "in":
		return p.next().text
	case t.kind == tokName && t.text == "not":
		if after := p.tokens[p.pos+1]; after.kind == tokName && after.text == "in" {
			p.next()
			p.next()
			return "not in"
		}
	}
	return ""
}

func (p *parser) sum() (expr, error)     { return p.arith(p.concat, "+", "-") }
func (p *parser) product() (expr, error) { return p.arith(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.arith(func() (expr, error) { return p.unary(true) }, "**")
}

// arith parses a left-associative chain of operators.
func (p *parser) arith(operand func() (expr, error), ops ...string) (expr, error) {
	first, err := operand()
	if err != nil {
		return nil, err
	}
	chain := &chainExpr{first: first}
	for {
		op := ""
		for _, o := range ops {
			if p.isOp(o) {
				op = o
			}
		}
		if op == "" {
			break
		}
		p.next()
		e, err := operand()
		if err != nil {
			return nil, err
		}
		chain.ops, chain.rest = append(chain.ops, op), append(chain.rest, e)
	}
	if len(chain.ops) == 0 {
		return first, nil
	}
	return &arithExpr{chain}, nil
}

func (p *parser) concat() (expr, error) {
	first, err := p.product()
	if err != nil || !p.isOp("~") {
		return first, err
	}
	c := &concatExpr{items: []expr{first}}
	for p.skipOp("~") {
		e, err := p.product()
		if err != nil {
			return nil, err
		}
		c.items = append(c.items, e)
	}
	return c, nil
}

func (p *parser) unary(withFilters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var e expr
	var err error
	if p.isOp("-") || p.isOp("+") {
		op := p.next().text
		if e, err = p.unary(false); err == nil {
			e = &signExpr{op == "-", e}
		}
	} else {
		e, err = p.primary()
	}
	if err != nil {
		return nil, err
	}
	return p.postfix(e, withFilters)
}

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch t.kind {
	case tokName:
		return nameOrConst(t.text), nil
	case tokString:
		parts := []string{t.text}
		for p.cur().kind == tokString {
			parts = append(parts, p.next().text)
		}
		return &constExpr{literal(strings.Join(parts, ""))}, nil
	case tokInt:
		n, err := strconv.ParseInt(t.text, 0, 64)
		if err != nil {
			n, err = strconv.ParseInt(t.text, 10, 64) // 007: Python refuses, jinja2 reads int(…, 0)
		}
		if err != nil {
			return nil, &SyntaxError{t.line, "integer " + t.text + " is malformed or too large"}
		}
		return &constExpr{n}, nil
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil || math.IsInf(f, 0) {
			return nil, &SyntaxError{t.line, "number " + t.text + " is malformed or too large"}
		}
		return &constExpr{f}, nil
	case tokOp:
		switch t.text {
		case "(":
			if p.skipOp(")") {
				return &listExpr{tuple: true}, nil
			}
			e, err := p.tuple(true)
			if err != nil {
				return nil, err
			}
			return e, p.expectOp(")")
		case "[":
			items, err := p.list("]")
			return &listExpr{items: items}, err
		case "{":
			return p.dict()
		}
	}
	return nil, &SyntaxError{t.line, "unexpected " + t.String()}
}

func nameOrConst(name string) expr {
	switch name {
	case "true", "True":
		return &constExpr{true}
	case "false", "False":
		return &constExpr{false}
	case "none", "None":
		return &constExpr{none{}}
	}
	return &nameExpr{name}
}

// list parses expressions with commas up to and including the closing mark.
func (p *parser) list(end string) ([]expr, error) {
	var items []expr
	for !p.skipOp(end) {
		if len(items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.skipOp(end) {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return items, nil
}

func (p *parser) dict() (expr, error) {
	d := &dictExpr{}
	for !p.skipOp("}") {
		if len(d.keys) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.skipOp("}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.vals = append(d.keys, k), append(d.vals, v)
	}
	return d, nil
}

// postfix parses .attr, [item], (call), and if asked |filter and is-tests.
// Each link deepens the tree by one, so links count as nesting.
func (p *parser) postfix(e expr, withFilters bool) (expr, error) {
	depth := p.depth
	defer func() { p.depth = depth }()
	for filtered := false; ; {
		var err error
		switch {
		case !filtered && p.isOp("."), !filtered && p.isOp("["):
			e, err = p.subscript(e)
		case p.isOp("("):
			p.next()
			c := &callExpr{fn: e}
			c.args, err = p.callArgs()
			e = c
		case withFilters && p.isOp("|"):
			p.next()
			filtered = true
			e, err = p.filter(e)
		case withFilters && p.isName("is"):
			p.next()
			filtered = true
			e, err = p.test(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
		if err := p.enter(); err != nil {
			return nil, err
		}
	}
}

func (p *parser) subscript(e expr) (expr, error) {
	if p.next().text == "." {
		if p.cur().kind == tokInt {
			idx, err := p.primary()
			return &itemExpr{e, idx}, err
		}
		name, err := p.name()
		return &attrExpr{e, name}, err
	}
	if !p.isOp(":") {
		idx, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		if !p.isOp(":") {
			return &itemExpr{e, idx}, p.expectOp("]")
		}
		return p.slice(&sliceExpr{x: e, bounds: [3]expr{idx}})
	}
	return p.slice(&sliceExpr{x: e})
}

// slice parses ":stop:step]".
func (p *parser) slice(s *sliceExpr) (expr, error) {
	for i := 1; i < 3 && p.skipOp(":"); i++ {
		if p.isOp(":") || p.isOp("]") {
			continue
		}
		var err error
		if s.bounds[i], err = p.expression(); err != nil {
			return nil, err
		}
	}
	return s, p.expectOp("]")
}

// callArgs parses "a, b, k=v)" after the opening parenthesis.
func (p *parser) callArgs() (callArgs, error) {
	var c callArgs
	for n := 0; !p.skipOp(")"); n++ {
		if n > 0 {
			if err := p.expectOp(","); err != nil {
				return c, err
			}
			if p.skipOp(")") {
				break
			}
		}
		if star := p.isOp("*"); star || p.isOp("**") {
			into := &c.starStar
			if star {
				into = &c.star
			}
			if p.next(); *into != nil || star && c.starStar != nil {
				return c, p.errorf("'*' and '**' may stand once each, in this order")
			}
			var err error
			if *into, err = p.expression(); err != nil {
				return c, err
			}
			continue
		}
		key := ""
		if after := p.tokens[min(p.pos+1, len(p.tokens)-1)]; p.cur().kind == tokName && after.kind == tokOp && after.text == "=" {
			key = p.next().text
			p.next()
		} else if len(c.keys) > 0 || c.star != nil || c.starStar != nil {
			return c, p.errorf("positional argument after a keyword argument or '*'")
		}
		e, err := p.expression()
		if err != nil {
			return c, err
		}
		if key == "" {
			c.pos = append(c.pos, e)
		} else {
			c.keys, c.vals = append(c.keys, key), append(c.vals, e)
		}
	}
	return c, nil
}

// filters parses "|name(args)" as often as it comes.
func (p *parser) filters(e expr) (expr, error) {
	depth := p.depth
	defer func() { p.depth = depth }()
	for p.skipOp("|") {
		var err error
		if e, err = p.filter(e); err != nil {
			return nil, err
		}
		if err := p.enter(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (p *parser) filter(e expr) (expr, error) {
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	f := &filterExpr{x: e, name: name}
	if p.skipOp("(") {
		f.args, err = p.callArgs()
	}
	return f, err
}

// test parses what follows "is".
func (p *parser) test(e expr) (expr, error) {
	negated := p.skipName("not")
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	t := &testExpr{x: e, name: name}
	if p.skipOp("(") {
		t.args, err = p.callArgs()
	} else if p.startsTestArgument() {
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg, false)
		}
		t.args.pos = []expr{arg}
	}
	if negated {
		return &notExpr{t}, err
	}
	return t, err
}

func (p *parser) startsTestArgument() bool {
	switch t := p.cur(); t.kind {
	case tokString, tokInt, tokFloat:
		return true
	case tokName:
		return t.text != "else" && t.text != "or" && t.text != "and" && t.text != "is" && t.text != "if"
	case tokOp:
		return t.text == "[" || t.text == "{"
	}
	return false
}
