package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strconv"
)

// size is how many bytes the caller gave, the measure of all budgets.
func (in *Input) size() int {
	n := len(in.BOSToken) + len(in.EOSToken)
	for _, m := range in.Messages {
		n += len(m.Role) + len(m.Content) + len(m.Name) + len(m.ToolCallID) + len(m.Reasoning)
		for _, c := range m.ToolCalls {
			n += len(c.ID) + len(c.Name) + len(c.Arguments)
		}
	}
	for _, t := range in.Tools {
		n += len(t.Name) + len(t.Description) + len(t.Parameters)
	}
	for _, v := range in.Vars {
		switch v := v.(type) {
		case string:
			n += len(v)
		case json.RawMessage:
			n += len(v)
		}
	}
	return n
}

// inputVars are the template's variables, as transformers names them.
func (in *interp) inputVars(input Input, caps Capabilities) (map[string]value, error) {
	vars := map[string]value{}
	for name, v := range input.Vars {
		if _, taken := globals[name]; taken || ownVars[name] {
			return nil, errorf("template variable '%s' is reserved", name)
		}
		x, err := in.fromGo(v, 0)
		if err != nil {
			return nil, errorf("template variable '%s': %w", name, err)
		}
		vars[name] = x
	}
	messages := make([]value, len(input.Messages))
	for i, m := range input.Messages {
		d, err := in.messageDict(m, caps)
		if err != nil {
			return nil, errorf("message %d: %w", i, err)
		}
		messages[i] = d
	}
	vars["messages"] = &list{items: messages}
	vars["documents"] = none{}
	vars["tools"] = none{}
	if len(input.Tools) > 0 {
		tools := make([]value, len(input.Tools))
		for i, t := range input.Tools {
			d, err := in.toolDict(t)
			if err != nil {
				return nil, errorf("tool '%s': %w", t.Name, err)
			}
			tools[i] = d
		}
		vars["tools"] = &list{items: tools}
	}
	vars["add_generation_prompt"] = input.AddGenerationPrompt
	vars["bos_token"] = literal(input.BOSToken)
	vars["eos_token"] = literal(input.EOSToken)
	return vars, in.elements(len(messages) + len(input.Tools))
}

var ownVars = map[string]bool{"messages": true, "tools": true, "add_generation_prompt": true, "bos_token": true,
	"eos_token": true, "loop": true}

// knownRoles are trusted: templates build control tokens from them, such as
// '<|' + role + '|>'. Any other role is user text.
var knownRoles = map[string]bool{"system": true, "developer": true, "user": true, "assistant": true, "tool": true,
	"function": true, "ipython": true}

func roleText(role string) text {
	if knownRoles[role] {
		return literal(role)
	}
	return foreign(role)
}

func (in *interp) messageDict(m Message, caps Capabilities) (value, error) {
	d := newDict()
	d.put("role", roleText(m.Role))
	d.put("content", foreign(m.Content))
	if m.Content == "" && len(m.ToolCalls) > 0 && caps.NullContent {
		d.put("content", none{})
	}
	optional := func(key, s string) {
		if s != "" {
			d.put(key, foreign(s))
		}
	}
	optional("name", m.Name)
	optional("tool_call_id", m.ToolCallID)
	optional("reasoning_content", m.Reasoning)
	optional("reasoning", m.Reasoning)
	optional("thinking", m.Reasoning)
	if len(m.ToolCalls) == 0 {
		return d, nil
	}
	calls := make([]value, len(m.ToolCalls))
	for i, c := range m.ToolCalls {
		fn := newDict()
		fn.put("name", foreign(c.Name))
		fn.put("arguments", foreign(string(c.Arguments)))
		if !caps.StringArguments {
			if args, err := in.fromJSON(c.Arguments); err == nil && is[*dict](args) {
				fn.put("arguments", args)
			}
		}
		call := newDict()
		call.put("type", foreign("function"))
		if c.ID != "" {
			call.put("id", foreign(c.ID))
		}
		call.put("function", fn)
		calls[i] = call
	}
	d.put("tool_calls", &list{items: calls})
	return d, in.elements(len(calls))
}

func (in *interp) toolDict(t Tool) (value, error) {
	fn := newDict()
	fn.put("name", foreign(t.Name))
	if t.Description != "" {
		fn.put("description", foreign(t.Description))
	}
	if len(t.Parameters) > 0 {
		params, err := in.fromJSON(t.Parameters)
		if err != nil {
			return nil, errorf("parameters: %w", err)
		}
		fn.put("parameters", params)
	}
	d := newDict()
	d.put("type", foreign("function"))
	d.put("function", fn)
	return d, nil
}

// fromGo converts a template variable; all text is untrusted.
func (in *interp) fromGo(v any, depth int) (value, error) {
	if depth > maxNesting {
		return nil, nestingError(maxNesting)
	}
	if err := in.elements(1); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil:
		return none{}, nil
	case bool:
		return v, nil
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case float64:
		return v, nil
	case string:
		return foreign(v), in.touch(len(v))
	case json.Number:
		return number(v)
	case json.RawMessage:
		return in.fromJSON(v)
	case []any:
		out := make([]value, len(v))
		for i, item := range v {
			var err error
			if out[i], err = in.fromGo(item, depth+1); err != nil {
				return nil, err
			}
		}
		return &list{items: out}, nil
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		d := newDict()
		for _, k := range keys {
			item, err := in.fromGo(v[k], depth+1)
			if err != nil {
				return nil, err
			}
			d.set(foreign(k), item)
		}
		return d, nil
	}
	return nil, fmt.Errorf("a %T cannot be given to a template", v)
}

// fromJSON reads one JSON value, keeping key order.
func (in *interp) fromJSON(raw json.RawMessage) (value, error) {
	if err := in.touch(len(raw)); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := in.jsonValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errorf("text after the JSON value")
	}
	return v, nil
}

func (in *interp) jsonValue(dec *json.Decoder, depth int) (value, error) {
	if depth > maxNesting {
		return nil, nestingError(maxNesting)
	}
	if err := in.elements(1); err != nil {
		return nil, err
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case nil:
		return none{}, nil
	case bool:
		return tok, nil
	case string:
		return foreign(tok), nil
	case json.Number:
		return number(tok)
	}
	d, l := newDict(), &list{}
	for dec.More() {
		if tok == json.Delim('{') {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			item, err := in.jsonValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.set(foreign(key.(string)), item)
			continue
		}
		item, err := in.jsonValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, item)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if tok == json.Delim('{') {
		return d, nil
	}
	return l, nil
}

// number reads a JSON number as Python would.
func number(n json.Number) (value, error) {
	s := n.String()
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i, nil
	}
	if !bytes.ContainsAny([]byte(s), ".eE") {
		return bigInt(s), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && f == 0 {
		return nil, err
	}
	return f, nil // out of range reads as infinity, as in Python
}
