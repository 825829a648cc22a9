package chat

import (
	"encoding/json"
	"strings"
	"time"
)

// Capabilities is what a template does with a conversation, found by
// rendering small ones and looking for their words in the prompt.
type Capabilities struct {
	SystemRole       bool // shows a system message
	Tools            bool // shows the tools offered
	ToolCalls        bool // shows an assistant's earlier calls
	ToolResults      bool // shows a tool's answers
	Reasoning        bool // shows the thinking of a turn in progress
	GenerationPrompt bool // add_generation_prompt changes the prompt
	StringArguments  bool // wants call arguments as a JSON string, not an object
	NullContent      bool // wants content null, not "", beside tool calls
}

// Probe renders small conversations to learn what the template supports. It
// fails if the template cannot render a single user message. The answer is
// computed once.
func (t *Template) Probe() (Capabilities, error) { return t.probe() }

const (
	probeUser   = "probe-user-words"
	probeSystem = "probe-system-words"
	probeTool   = "probe_tool"
	probeValue  = "probe-value"
	probeResult = "probe-result-words"
	probeThink  = "probe-thinking-words"
)

// probeNow is a fixed day, so that probing is reproducible.
func probeNow() time.Time { return time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC) }

func (t *Template) runProbe() (Capabilities, error) {
	var caps Capabilities
	user := Message{Role: "user", Content: probeUser}
	plain, err := t.tryRender(Input{Messages: []Message{user}}, caps)
	if err != nil {
		return caps, err
	}
	open, err := t.tryRender(Input{Messages: []Message{user}, AddGenerationPrompt: true}, caps)
	caps.GenerationPrompt = err == nil && open != plain

	shows := func(words string, in Input) bool {
		out, err := t.tryRender(in, caps)
		return err == nil && strings.Contains(out, words)
	}
	system := Message{Role: "system", Content: probeSystem}
	caps.SystemRole = shows(probeSystem, Input{Messages: []Message{system, user}})
	tools := []Tool{{Name: probeTool, Description: "probe", Parameters: json.RawMessage(`{"type":"object","properties":{}}`)}}
	caps.Tools = shows(probeTool, Input{Messages: []Message{user}, Tools: tools})
	t.probeCalls(user, tools, &caps)
	return caps, nil
}

// probeCalls finds the form of tool calls the template renders best: arguments
// as proper JSON if any form gives that, else any form that shows the call.
func (t *Template) probeCalls(user Message, tools []Tool, caps *Capabilities) {
	call := Message{Role: "assistant", ToolCalls: []ToolCall{{ID: "probe0001", Name: "probe_called",
		Arguments: json.RawMessage(`{"probe":"` + probeValue + `"}`)}}}
	result := Message{Role: "tool", Content: probeResult, Name: "probe_called", ToolCallID: "probe0001"}
	in := Input{Messages: []Message{user, call, result}, Tools: tools, AddGenerationPrompt: true}
	for _, want := range []string{`"` + probeValue + `"`, probeValue} {
		for form := range 4 {
			try := *caps
			try.StringArguments, try.NullContent = form&1 != 0, form&2 != 0
			out, err := t.tryRender(in, try)
			if err != nil || !strings.Contains(out, "probe_called") || !strings.Contains(out, want) {
				continue
			}
			try.ToolCalls = true
			try.ToolResults = strings.Contains(out, probeResult)
			in.Messages[1].Reasoning = probeThink
			out, err = t.tryRender(in, try)
			try.Reasoning = err == nil && strings.Contains(out, probeThink)
			*caps = try
			return
		}
	}
}

func (t *Template) tryRender(in Input, caps Capabilities) (string, error) {
	in.Now = probeNow
	segs, err := t.render(in, caps)
	return Text(segs), err
}
