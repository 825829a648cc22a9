package chat

import (
	"fmt"
	"slices"
)

// parser is a recursive-descent parser with one token of look-ahead (two to
// tell a keyword argument). Every recursion passes through enter.
type parser struct {
	tokens []token
	pos    int
	depth  int // nested blocks and expressions
	loops  int // nested for blocks, for break and continue
}

func parse(tokens []token) ([]stmt, error) {
	p := &parser{tokens: tokens}
	body, err := p.statements()
	if err == nil && p.cur().kind != tokEOF {
		err = p.errorf("unexpected tag %v", p.cur())
	}
	return body, err
}

func (p *parser) cur() token { return p.tokens[p.pos] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (p *parser) errorf(format string, args ...any) error {
	return &SyntaxError{p.cur().line, fmt.Sprintf(format, args...)}
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return fmt.Errorf("chat template line %d: %w", p.cur().line, nestingError(maxNesting))
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) isOp(op string) bool     { return p.cur().kind == tokOp && p.cur().text == op }
func (p *parser) isName(name string) bool { return p.cur().kind == tokName && p.cur().text == name }

func (p *parser) skipOp(op string) bool {
	ok := p.isOp(op)
	if ok {
		p.next()
	}
	return ok
}

func (p *parser) skipName(name string) bool {
	ok := p.isName(name)
	if ok {
		p.next()
	}
	return ok
}

func (p *parser) expectOp(op string) error {
	if !p.skipOp(op) {
		return p.errorf("expected '%s', found %v", op, p.cur())
	}
	return nil
}

func (p *parser) expect(kind tokenKind, what string) (token, error) {
	if p.cur().kind != kind {
		return token{}, p.errorf("expected %s, found %v", what, p.cur())
	}
	return p.next(), nil
}

func (p *parser) name() (string, error) {
	t, err := p.expect(tokName, "a name")
	return t.text, err
}

// statements parses until a block whose name is in ends, which it leaves with
// the name as the current token, or until the end of the template.
func (p *parser) statements(ends ...string) ([]stmt, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var body []stmt
	for {
		t := p.cur()
		switch t.kind {
		case tokEOF:
			if len(ends) > 0 {
				return nil, p.errorf("the template ends where '%s' is missing", ends[len(ends)-1])
			}
			return body, nil
		case tokData:
			p.next()
			body = append(body, &outputStmt{t.line, &constExpr{literal(t.text)}})
		case tokVarBegin:
			p.next()
			e, err := p.tuple(true)
			if err != nil {
				return nil, err
			}
			if _, err := p.expect(tokVarEnd, "'}}'"); err != nil {
				return nil, err
			}
			body = append(body, &outputStmt{t.line, e})
		default:
			p.next()
			if p.cur().kind == tokName && slices.Contains(ends, p.cur().text) {
				return body, nil
			}
			s, err := p.block()
			if err != nil {
				return nil, err
			}
			body = append(body, s)
		}
	}
}

// closeTag consumes the end of a block tag.
func (p *parser) closeTag() error {
	_, err := p.expect(tokBlockEnd, "'%}'")
	return err
}

// bodyUntil parses "%} … {% end %}".
func (p *parser) bodyUntil(end string) ([]stmt, error) {
	if err := p.closeTag(); err != nil {
		return nil, err
	}
	body, err := p.statements(end)
	if err != nil {
		return nil, err
	}
	p.next()
	return body, p.closeTag()
}

// block parses one {% … %} statement and all it encloses.
func (p *parser) block() (stmt, error) {
	line := p.cur().line
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	switch name {
	case "if":
		return p.ifBlock(line)
	case "for":
		return p.forBlock(line)
	case "set":
		return p.setBlock(line)
	case "macro":
		return p.macroBlock(line)
	case "with":
		return p.withBlock(line)
	case "filter":
		return p.filterBlock(line)
	case "call":
		return p.callBlock(line)
	case "generation":
		body, err := p.bodyUntil("endgeneration")
		return &scopeStmt{line: line, body: body}, err
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.errorf("'%s' outside a loop", name)
		}
		if name == "break" {
			return jumpStmt{errBreak}, p.closeTag()
		}
		return jumpStmt{errContinue}, p.closeTag()
	case "include", "import", "from", "extends", "block", "do", "autoescape":
		return nil, p.errorf("the '%s' tag is not allowed in chat templates", name)
	}
	return nil, p.errorf("unknown tag '%s'", name)
}

func (p *parser) ifBlock(line int) (stmt, error) {
	node := &ifStmt{}
	for {
		cond, err := p.tuple(false)
		if err != nil {
			return nil, err
		}
		if err := p.closeTag(); err != nil {
			return nil, err
		}
		body, err := p.statements("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		node.arms = append(node.arms, ifArm{line, cond, body})
		line = p.cur().line
		switch p.next().text {
		case "else":
			node.otherwise, err = p.bodyUntil("endif")
			return node, err
		case "endif":
			return node, p.closeTag()
		}
	}
}

func (p *parser) forBlock(line int) (stmt, error) {
	node := &forStmt{line: line}
	var err error
	if node.target, err = p.target(false); err != nil {
		return nil, err
	}
	if !p.skipName("in") {
		return nil, p.errorf("expected 'in', found %v", p.cur())
	}
	if node.iter, err = p.tuple(false); err != nil {
		return nil, err
	}
	if p.skipName("if") {
		if node.test, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if p.isName("recursive") {
		return nil, p.errorf("recursive loops are not supported; use a macro")
	}
	if err := p.closeTag(); err != nil {
		return nil, err
	}
	p.loops++
	node.body, err = p.statements("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	if p.next().text == "else" {
		node.otherwise, err = p.bodyUntil("endfor")
		return node, err
	}
	return node, p.closeTag()
}

// target parses what for and set assign to: a name, namespace.attr (set only),
// or a tuple of names.
func (p *parser) target(attr bool) (*target, error) {
	var items []*target
	for {
		t, err := p.targetItem(attr)
		if err != nil {
			return nil, err
		}
		items = append(items, t)
		if !p.skipOp(",") {
			break
		}
		if p.cur().kind != tokName && !p.isOp("(") || p.isName("in") {
			return &target{items: items}, nil
		}
	}
	if len(items) == 1 {
		return items[0], nil
	}
	return &target{items: items}, nil
}

func (p *parser) targetItem(attr bool) (*target, error) {
	if p.skipOp("(") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer p.leave()
		t, err := p.target(attr)
		if err != nil {
			return nil, err
		}
		return t, p.expectOp(")")
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	if reserved[name] {
		return nil, p.errorf("cannot assign to '%s'", name)
	}
	t := &target{name: name}
	if attr && p.skipOp(".") {
		t.attr, err = p.name()
	}
	return t, err
}

var reserved = map[string]bool{"true": true, "True": true, "false": true, "False": true, "none": true, "None": true,
	"and": true, "or": true, "not": true, "in": true, "is": true, "if": true, "else": true}

func (p *parser) setBlock(line int) (stmt, error) {
	t, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.skipOp("=") {
		e, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		return &setStmt{line, t, e}, p.closeTag()
	}
	filters, err := p.filters(&bodyExpr{})
	if err != nil {
		return nil, err
	}
	body, err := p.bodyUntil("endset")
	return &captureStmt{line: line, target: t, filters: filters, body: body}, err
}

func (p *parser) filterBlock(line int) (stmt, error) {
	first, err := p.filter(&bodyExpr{})
	if err != nil {
		return nil, err
	}
	filters, err := p.filters(first)
	if err != nil {
		return nil, err
	}
	body, err := p.bodyUntil("endfilter")
	return &captureStmt{line: line, filters: filters, body: body}, err
}

func (p *parser) withBlock(line int) (stmt, error) {
	node := &scopeStmt{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(node.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		t, err := p.targetItem(false)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		node.targets, node.values = append(node.targets, t), append(node.values, e)
	}
	var err error
	node.body, err = p.bodyUntil("endwith")
	return node, err
}

func (p *parser) macroBlock(line int) (stmt, error) {
	node := &macroStmt{line: line}
	var err error
	if node.name, err = p.name(); err != nil {
		return nil, err
	}
	return node, p.macroRest(node, "endmacro")
}

// callBlock parses {% call(params) macro(args) %} body {% endcall %}: the macro is called with the body as its caller.
func (p *parser) callBlock(line int) (stmt, error) {
	body := &macroStmt{line: line, name: "caller"}
	if p.isOp("(") {
		if err := p.params(body); err != nil {
			return nil, err
		}
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := e.(*callExpr)
	if !ok {
		return nil, p.errorf("'call' needs the call of a macro")
	}
	return &callStmt{line, call, body}, p.macroBody(body, "endcall")
}

// macroRest parses "(params) %} body {% end %}".
func (p *parser) macroRest(node *macroStmt, end string) error {
	if err := p.params(node); err != nil {
		return err
	}
	return p.macroBody(node, end)
}

// params parses "(a, b=1)".
func (p *parser) params(node *macroStmt) error {
	if err := p.expectOp("("); err != nil {
		return err
	}
	for !p.isOp(")") {
		if len(node.params) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		param, err := p.name()
		if err != nil {
			return err
		}
		var def expr
		if p.skipOp("=") {
			if def, err = p.expression(); err != nil {
				return err
			}
		} else if n := len(node.defaults); n > 0 && node.defaults[n-1] != nil {
			return p.errorf("parameter '%s' without default follows one with a default", param)
		}
		node.params, node.defaults = append(node.params, param), append(node.defaults, def)
	}
	p.next()
	return nil
}

// macroBody parses the body. A macro takes varargs, kwargs or a caller if its body names them.
func (p *parser) macroBody(node *macroStmt, end string) (err error) {
	start, loops := p.pos, p.loops
	p.loops = 0
	node.body, err = p.bodyUntil(end)
	p.loops = loops
	for _, t := range p.tokens[start:p.pos] {
		if t.kind == tokName && !slices.Contains(node.params, t.text) {
			node.varargs = node.varargs || t.text == "varargs"
			node.kwargs = node.kwargs || t.text == "kwargs"
			node.caller = node.caller || t.text == "caller"
		}
	}
	return err
}
