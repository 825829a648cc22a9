package chat

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// bombs try to hold a CPU, grow memory or overflow the stack.
var bombs = map[string]string{
	"nested range":        `{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}`,
	"range too long":      `{{ range(100001) }}`,
	"many ranges":         `{% for a in range(99999) %}{% set b = range(99999)|list %}{% endfor %}`,
	"sums of ranges":      `{% set ns = namespace(x=range(99999)|list) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
	"doubling":            `{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`,
	"multiplying":         `{{ 'a' * 1000000000 }}`,
	"multiplying twice":   `{{ ('a' * 1000000) * 1000000 }}`,
	"multiplying lists":   `{{ ([1] * 100000) * 100000 }}`,
	"joining":             `{{ range(99999)|join('a' * 1000000) }}`,
	"replacing":           `{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}`,
	"replacing nothing":   `{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% set t = s.replace('b', 'c') %}{% endfor %}`,
	"searching":           `{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}`,
	"comparing":           `{% set s = 'a' * 1000000 %}{% set t = s ~ '' %}{% for i in range(99999) %}{% if s == t %}{% endif %}{% endfor %}`,
	"indexing":            `{% set s = 'é' * 400000 %}{% for i in range(99999) %}{{ s[-1] }}{% endfor %}`,
	"long output":         `{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}`,
	"endless macro":       `{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}`,
	"endless call":        `{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}`,
	"endless caller":      `{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}`,
	"unpacked range":      `{% macro m() %}{{ varargs|length }}{{ m(*(varargs + varargs)) }}{% endmacro %}{{ m(*range(100000)) }}`,
	"branching macro":     `{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(40) }}`,
	"shared list printed": `{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}`,
	"shared list compare": `{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}`,
	"deep list printed":   `{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}`,
	"nested filters":      `{{ [[[[1]]]]|map('map', 'map', 'list')|list }}{% for a in range(99999) %}{% for b in range(999) %}{{ [2, 1]|sort }}{% endfor %}{% endfor %}`,
	"sorting":             `{% for a in range(99999) %}{% set b = range(9999)|sort(reverse=true) %}{% endfor %}`,
	"splitting":           `{% set s = ' a' * 500000 %}{% for i in range(999) %}{% set t = s.split() %}{% endfor %}`,
	"indenting":           `{{ ('\n' * 1000000)|indent(1000, true, true) }}`,
	"json indent":         `{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, 1, 1] %}{% endfor %}{% for i in range(99999) %}{{ ns.x|tojson(indent=60) }}{% endfor %}`,
	"deep parentheses":    `{{ ` + strings.Repeat("(", 60000) + `1` + strings.Repeat(")", 60000) + ` }}`,
	"deep lists":          `{{ ` + strings.Repeat("[", 60000) + strings.Repeat("]", 60000) + ` }}`,
	"deep nots":           `{{ ` + strings.Repeat("not ", 60000) + `1 }}`,
	"deep signs":          `{{ ` + strings.Repeat("-", 60000) + `1 }}`,
	"deep attributes":     `{{ x` + strings.Repeat(".x", 60000) + ` }}`,
	"deep filters":        `{{ x` + strings.Repeat("|list", 60000) + ` }}`,
	"deep tests":          `{{ x` + strings.Repeat(" is none", 60000) + ` }}`,
	"deep else":           `{{ ` + strings.Repeat("1 if 0 else ", 60000) + `1 }}`,
	"deep blocks":         strings.Repeat("{% if 1 %}", 60000),
	"deep targets":        `{% set ` + strings.Repeat("(", 60000) + `a` + strings.Repeat(")", 60000) + ` = 1 %}`,
	"long source":         strings.Repeat("a", maxSource+1),
}

// TestBombs: each is refused by a budget, soon.
func TestBombs(t *testing.T) {
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := renderString(bomb, Input{Messages: []Message{{Role: "user", Content: "hi"}}})
			if !errors.Is(err, ErrBudget) {
				t.Errorf("got %v, want a budget error", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	t.Logf("T23 chat templates made to exhaust %d, all refused by a budget", len(bombs))
}

// TestFlatChains: long is not deep. Chains evaluate in loops.
func TestFlatChains(t *testing.T) {
	for _, op := range []string{"+", "~", " and ", " or ", "<", ",", "*"} {
		src := "{{ 1" + strings.Repeat(op+"1", 50000) + " }}{% if 0 %}" + strings.Repeat("{% elif 0 %}", 5000) + "{% endif %}"
		if _, err := renderString(src, Input{}); err != nil {
			t.Errorf("%q: %v", op, err)
		}
	}
}

// TestLongConversation: honest conversations of 8 MB, and of 400 tool calls,
// stay within the budgets of every chat template.
func TestLongConversation(t *testing.T) {
	var long, calls []Message
	for range 1000 {
		words := strings.Repeat("many words ", 400)
		long = append(long, Message{Role: "user", Content: words}, Message{Role: "assistant", Content: words})
	}
	for i := range 1200 {
		calls = append(calls, []Message{{Role: "user", Content: "please look up the weather for me"},
			{Role: "assistant", ToolCalls: []ToolCall{{"abcdefgh1", "weather", json.RawMessage(`{"city":"Zürich"}`)}}},
			{Role: "tool", Content: "21 degrees", ToolCallID: "abcdefgh1"}}[i%3])
	}
	for _, g := range goldens(t) {
		if g.File == "" || !strings.HasSuffix(g.Name, ": user") {
			continue
		}
		for _, messages := range [][]Message{long, calls} {
			var refused *TemplateError
			if _, err := renderString(g.Template, Input{Messages: messages}); err != nil && !errors.As(err, &refused) {
				t.Errorf("%s: %v", g.Name, err)
			}
		}
	}
}

// TestHostileInput: deep or malformed tool schemas and variables.
func TestHostileInput(t *testing.T) {
	deep := json.RawMessage(strings.Repeat("[", 60000) + strings.Repeat("]", 60000))
	if _, err := renderString(`x`, Input{Tools: []Tool{{Name: "t", Parameters: deep}}}); !errors.Is(err, ErrBudget) {
		t.Errorf("deep schema: %v", err)
	}
	if _, err := renderString(`x`, Input{Tools: []Tool{{Name: "t", Parameters: json.RawMessage(`{"a":`)}}}); err == nil {
		t.Error("half a schema was accepted")
	}
	for _, name := range []string{"messages", "tools", "bos_token", "raise_exception", "range", "add_generation_prompt"} {
		if _, err := renderString(`x`, Input{Vars: map[string]any{name: true}}); err == nil {
			t.Errorf("variable %s was overridden", name)
		}
	}
	if _, err := renderString(`x`, Input{Vars: map[string]any{"f": func() {}}}); err == nil {
		t.Error("a Go function reached a template")
	}
}

// TestErrorLines: errors name the line of the template.
func TestErrorLines(t *testing.T) {
	for src, want := range map[string]string{
		"a\nb\n{{ 1 + }}":                         "chat template line 3: unexpected '}}'",
		"a\n\n{{ 1 / 0 }}":                        "chat template line 3: division by zero",
		"{% if x %}\n{% include 'y' %}":           "chat template line 2: the 'include' tag is not allowed in chat templates",
		"\n{{ messages.append(1) }}":              "chat template line 2: access to attribute 'append' of 'list' object is unsafe",
		"\n{% if 1 %}\n{{ nope.x }}\n{% endif %}": "chat template line 3: 'nope' is undefined",
		"\n\n\n{{ raise_exception('be nice') }}":  "chat template: be nice",
	} {
		if _, err := renderString(src, Input{}); err == nil || err.Error() != want {
			t.Errorf("%q\ngot  %v\nwant %s", src, err, want)
		}
	}
}

// FuzzRender: no template or content panics or runs long.
func FuzzRender(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.Template, "hello <|im_end|>")
	}
	for _, bomb := range bombs {
		if len(bomb) < 1000 {
			f.Add(bomb, "x")
		}
	}
	f.Fuzz(func(t *testing.T, template, content string) {
		tmpl, err := Parse(template)
		if err != nil {
			return
		}
		start := time.Now()
		segs, _ := tmpl.Render(Input{BOSToken: "<s>", Now: goldenNow, Messages: []Message{{Role: "user", Content: content}},
			Vars: map[string]any{"n": 7, "l": []any{1, "x", nil}, "d": map[string]any{"a": 1.5}, "s": content}})
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("took %v", d)
		}
		for i, s := range segs {
			if s.Text == "" || i > 0 && s.Trusted == segs[i-1].Trusted {
				t.Errorf("segments are not merged: %+v", segs)
			}
		}
	})
}
