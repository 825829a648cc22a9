package serve

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// slowEvents parses a whole stream the obvious way.
func slowEvents(stream string) (events []string) {
	lines := strings.Split(stream, "\n")
	lines = lines[:len(lines)-1] // what follows the last line end is cut
	var data []string
	name := ""
	for i, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		if i == 0 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" {
			if data != nil {
				events = append(events, name+"|"+strings.Join(data, "\n"))
			}
			data, name = nil, ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data = append(data, value)
		case "event":
			name = value
		}
	}
	return events
}

func readEvents(r io.Reader) (events []string, err error) {
	for er := newEventReader(r); ; {
		ev, err := er.next()
		if err != nil {
			return events, err
		}
		events = append(events, ev.name+"|"+string(ev.data))
	}
}

var streams = []string{
	"",
	"data: a\n\n",
	"\ufeffdata: a\r\n\r\ndata:b\n\ndata:  c\n\n",
	": comment\nevent: error\nid: 1\nretry: 5\ndata: x\ndata: y\n\n",
	"event: lost\n\ndata\n\ndata: cut",
	"data: cut\n",
	"data: [DONE]\n\n\n\n:\n\n",
	"data:\ndata:\n\n" + strings.Repeat("data: "+strings.Repeat("z", 40_000)+"\n", 3) + "\n",
	"\r\n\r\rdata: a\rb\n\n",
}

func checkEvents(t *testing.T, stream string) {
	t.Helper()
	want := slowEvents(stream)
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(stream), "bytewise": iotest.OneByteReader(strings.NewReader(stream)),
	} {
		got, err := readEvents(r)
		if !slices.Equal(got, want) || !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %.200q\n got %.200q, %v\nwant %.200q", name, stream, got, err, want)
		}
	}
}

func TestEvents(t *testing.T) {
	for _, s := range streams {
		checkEvents(t, s)
	}
	if got := slowEvents(streams[3]); !slices.Equal(got, []string{"error|x\ny"}) {
		t.Errorf("the reference reads %q", got)
	}
}

func FuzzEvents(f *testing.F) {
	for _, s := range streams {
		f.Add(s)
	}
	f.Fuzz(checkEvents)
}

// FuzzAnswer feeds whole streams to the classifier: it never panics, and an
// answer without a failure has sane figures.
func FuzzAnswer(f *testing.F) {
	for _, s := range append(streams, `{"choices":[{"text":"a"}]}`, `{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"completion_tokens":-3}}`, `{"error":{}}`, `[]`, `null`) {
		f.Add(s)
		f.Add("data: " + s + "\n\ndata: [DONE]\n\n")
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a answer
		a.read(t.Context(), strings.NewReader(s))
		r := a.result()
		if r.Failure == nil && (!strings.Contains(s, "[DONE]") || r.TTFT > r.E2EL || r.OutputTokens < 0 || r.InputTokens < 0) {
			t.Errorf("%+v of %q", r, s)
		}
	})
}

// endless is a line that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return copy(p, bytes.Repeat([]byte("a"), len(p))), nil
}

func TestEventsAreBounded(t *testing.T) {
	var e endless
	if _, err := readEvents(io.MultiReader(strings.NewReader("data: "), &e)); !errors.Is(err, errEventTooLong) || e.read > 2*maxEvent {
		t.Errorf("a line without end: %v after %d bytes", err, e.read)
	}
	lines := strings.NewReader(strings.Repeat("data: "+strings.Repeat("a", 1<<20)+"\n", 20))
	if _, err := readEvents(lines); !errors.Is(err, errEventTooLong) || lines.Len() == 0 {
		t.Errorf("lines without end: %v, %d bytes left", err, lines.Len())
	}
}
