package chat

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Message is one turn of a conversation.
type Message struct {
	Role       string     // system, user, assistant, tool, …
	Content    string     // may be empty beside ToolCalls
	Name       string     // optional name of the speaker or tool
	ToolCalls  []ToolCall // calls an assistant made
	ToolCallID string     // the call a tool message answers
	Reasoning  string     // an assistant's thinking; templates see it as reasoning_content, reasoning and thinking
}

// ToolCall is one function call made by the assistant.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage // a JSON object; anything else reaches the template as a string
}

// Tool is a function the model may call.
type Tool struct {
	Name        string
	Description string
	Parameters  json.RawMessage // JSON schema; key order is kept
}

// Segment is a piece of a rendered prompt. Special tokens may be recognised in
// trusted segments only; but words may join across a border, so the tokenizer
// must see all segments of a prompt together.
type Segment struct {
	Text    string
	Trusted bool
}

// Text joins segments into the prompt as transformers would show it.
func Text(segs []Segment) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteString(s.Text)
	}
	return b.String()
}

// Input is what a template may see.
type Input struct {
	Messages            []Message
	Tools               []Tool
	AddGenerationPrompt bool
	BOSToken, EOSToken  string           // trusted
	Now                 func() time.Time // for strftime_now; nil means time.Now
	Vars                map[string]any   // extra variables such as enable_thinking: nil, bool, numbers, strings, json.RawMessage, slices and maps of these; untrusted
}

// Template is a compiled chat template, safe for concurrent use.
type Template struct {
	body  []stmt
	probe func() (Capabilities, error)
}

// Parse compiles a template. Errors are *SyntaxError, or wrap ErrBudget.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("%w: source of %d bytes, at most %d", ErrBudget, len(source), maxSource)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	body, err := parse(tokens)
	if err != nil {
		return nil, err
	}
	t := &Template{body: body}
	t.probe = sync.OnceValues(t.runProbe)
	return t, nil
}

// Render runs the template. Errors are *TemplateError when the template itself
// refused the conversation, *RenderError otherwise.
func (t *Template) Render(in Input) ([]Segment, error) {
	var caps Capabilities
	for _, m := range in.Messages {
		if len(m.ToolCalls) > 0 {
			caps, _ = t.Probe() // what a template cannot do shows in the render itself
			break
		}
	}
	return t.render(in, caps)
}

func (t *Template) render(in Input, caps Capabilities) ([]Segment, error) {
	size := in.size()
	if size > maxInputLength {
		return nil, fmt.Errorf("%w: conversation of %d bytes, at most %d", ErrBudget, size, maxInputLength)
	}
	run := &interp{budget: newBudget(size), out: &textBuilder{}, now: in.Now, line: 1}
	if run.now == nil {
		run.now = time.Now
	}
	vars, err := run.inputVars(in, caps)
	if err != nil {
		return nil, run.locate(err)
	}
	run.scope = &scope{vars: vars}
	if err := run.execAll(t.body); err != nil {
		return nil, run.locate(err)
	}
	return run.out.text().segments(), nil
}

// SyntaxError is a template that does not parse.
type SyntaxError struct {
	Line    int
	Message string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("chat template line %d: %s", e.Line, e.Message)
}

// RenderError is a template that failed while running.
type RenderError struct {
	Line int
	Err  error
}

func (e *RenderError) Error() string { return fmt.Sprintf("chat template line %d: %v", e.Line, e.Err) }
func (e *RenderError) Unwrap() error { return e.Err }

// TemplateError is a conversation that the template refused by
// raise_exception: the caller's mistake, not the model's.
type TemplateError struct {
	Line    int
	Message string // the template's own words
}

func (e *TemplateError) Error() string { return "chat template: " + e.Message }

// ChatML is the template for models that publish none.
const ChatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`
