package server

import (
	"fmt"
	"strings"

	"sestina/chat"
)

// readMessages reads a conversation. Content is a string or parts of type text,
// which are joined; every other part is refused by name, so nothing is ever
// fetched or decoded.
func readMessages(r *request, name string, v value) *apiError {
	err := v.array(name, maxMessages, func(i int, v value) *apiError {
		m, err := readMessage(fmt.Sprintf("%s[%d]", name, i), v)
		r.messages = append(r.messages, m)
		return err
	})
	if err == nil && len(r.messages) == 0 {
		err = badRequest(name, "%s is empty, must have at least one message", name)
	}
	return err
}

func readMessage(at string, v value) (m chat.Message, err *apiError) {
	said := false
	err = v.object(at, func(key string, v value) (err *apiError) {
		field := at + "." + clip(key)
		switch {
		case v.null():
		case key == "role":
			m.Role, err = shortText(field, v)
		case key == "content":
			said = true
			m.Content, err = readContent(field, v)
		case key == "name":
			m.Name, err = shortText(field, v)
		case key == "tool_call_id":
			m.ToolCallID, err = shortText(field, v)
		case key == "reasoning" || key == "reasoning_content":
			m.Reasoning, err = v.str(field)
		case key == "tool_calls" && compact(v) != "[]", key == "function_call", key == "audio":
			err = notBuilt(field)
		}
		return err // what else a reply's message carries (refusal, annotations) has no place in a prompt
	})
	switch {
	case err != nil:
	case m.Role == "":
		err = badRequest(at+".role", "%s.role is missing", at)
	case !said && m.Role != "assistant": // whose message may be a call of tools alone
		err = badRequest(at+".content", "%s.content is missing", at)
	}
	return m, err
}

func shortText(name string, v value) (string, *apiError) {
	s, err := v.str(name)
	if err == nil && len(s) > maxNameBytes {
		err = badRequest(name, "%s has %d bytes, at most %d are allowed", name, len(s), maxNameBytes)
	}
	return s, err
}

func readContent(at string, v value) (string, *apiError) {
	if v[0] != '[' {
		return v.str(at)
	}
	var b strings.Builder
	err := v.array(at, maxParts, func(i int, v value) *apiError {
		s, err := readPart(fmt.Sprintf("%s[%d]", at, i), v)
		b.WriteString(s)
		return err
	})
	return b.String(), err
}

func readPart(at string, v value) (string, *apiError) {
	kind, text := "", ""
	err := v.object(at, func(key string, v value) (err *apiError) {
		switch key {
		case "type":
			kind, err = v.str(at + ".type")
		case "text":
			text, err = v.str(at + ".text")
		}
		return err
	})
	if err == nil && kind != "text" {
		err = badRequest(at+".type", "%s.type is %s; only text parts are supported by this server", at, quoteName(kind))
	}
	return text, err
}
