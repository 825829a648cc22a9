package chat

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// golden is one case of testdata/goldens.json, answered by jinja2 itself.
type golden struct {
	Name     string
	Template string
	File     string // instead of Template, under testdata/templates
	Input    *goldenInput
	Output   *string
	Raised   *string
	Error    bool
}

type goldenInput struct {
	Messages []struct {
		Role, Content, Name, Reasoning string
		ToolCallID                     string                                 `json:"tool_call_id"`
		ToolCalls                      []struct{ ID, Name, Arguments string } `json:"tool_calls"`
	}
	Tools               []Tool
	AddGenerationPrompt bool   `json:"add_generation_prompt"`
	BOSToken            string `json:"bos_token"`
	EOSToken            string `json:"eos_token"`
	Vars                map[string]json.RawMessage
}

var goldenNow = func() time.Time { return time.Date(2025, 3, 9, 7, 5, 2, 0, time.UTC) }

func (g *goldenInput) input() Input {
	in := Input{Tools: g.Tools, AddGenerationPrompt: g.AddGenerationPrompt, BOSToken: g.BOSToken, EOSToken: g.EOSToken, Now: goldenNow, Vars: map[string]any{}}
	for name, raw := range g.Vars {
		in.Vars[name] = raw
	}
	for _, m := range g.Messages {
		msg := Message{Role: m.Role, Content: m.Content, Name: m.Name, ToolCallID: m.ToolCallID, Reasoning: m.Reasoning}
		for _, c := range m.ToolCalls {
			msg.ToolCalls = append(msg.ToolCalls, ToolCall{c.ID, c.Name, json.RawMessage(c.Arguments)})
		}
		in.Messages = append(in.Messages, msg)
	}
	return in
}

// goldens reads all cases, templates filled in.
func goldens(t testing.TB) []golden {
	t.Helper()
	data, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Vars  map[string]json.RawMessage
		Cases []golden
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all.Cases {
		g := &all.Cases[i]
		if g.Input == nil {
			g.Input = &goldenInput{Vars: all.Vars}
		}
		if g.File != "" {
			src, err := os.ReadFile(filepath.Join("testdata/templates", g.File))
			if err != nil {
				t.Fatal(err)
			}
			g.Template = strings.TrimSuffix(string(src), "\n")
		}
	}
	return all.Cases
}

// TestGoldens compares every case with jinja2: the output, the words of
// raise_exception, or that it fails.
func TestGoldens(t *testing.T) {
	cases := goldens(t)
	if len(cases) < 300 {
		t.Fatalf("only %d cases in testdata/goldens.json", len(cases))
	}
	for _, g := range cases {
		t.Run(g.Name, func(t *testing.T) {
			got, err := renderString(g.Template, g.Input.input())
			var raised *TemplateError
			switch {
			case g.Output != nil && err != nil:
				t.Errorf("%s\nfails: %v\nwant %q", g.Template, err, *g.Output)
			case g.Output != nil && got != *g.Output:
				t.Errorf("%s\ngot  %q\nwant %q", g.Template, got, *g.Output)
			case g.Raised != nil && (!errors.As(err, &raised) || raised.Message != *g.Raised):
				t.Errorf("%s\ngot %v\nwant raise_exception(%q)", g.Template, err, *g.Raised)
			case g.Error && err == nil:
				t.Errorf("%s\ngot %q, but jinja2 fails", g.Template, got)
			case g.Error && errors.As(err, &raised):
				t.Errorf("%s\nraised %v, but jinja2 fails otherwise", g.Template, err)
			}
		})
	}
}

func renderString(template string, in Input) (string, error) {
	tmpl, err := Parse(template)
	if err != nil {
		return "", err
	}
	segs, err := tmpl.Render(in)
	return Text(segs), err
}
