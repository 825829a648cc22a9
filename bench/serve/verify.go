package serve

import (
	"context"
	"slices"
)

const maxDifferences = 10 // described; all are counted

// Verify compares the answers given under load with those given to the same
// requests alone, one after the other.
type Verify struct {
	Compared    int            `json:"compared"`
	Differing   int            `json:"differing"`
	IDsCompared int            `json:"ids_compared"` // answers whose token ids came both times
	Failures    []FailureCount `json:"failures"`     // requests that failed alone, so were not compared
	Differences []Difference   `json:"differences"`
}

// Difference is where one request's two answers part.
type Difference struct {
	Rep     int    `json:"rep"`
	Request int    `json:"request"`
	Token   int    `json:"token"` // first differing id; -1 when no ids differ
	Byte    int    `json:"byte"`  // first differing byte of the text; -1 when the texts agree
	Loaded  string `json:"loaded"`
	Alone   string `json:"alone"`
}

// OK reports that something was compared and nothing differed or failed.
func (v *Verify) OK() bool { return v.Compared > 0 && v.Differing == 0 && len(v.Failures) == 0 }

// verifyAlone repeats every completed request alone.
func verifyAlone(ctx context.Context, cl *client, loads []load) (*Verify, error) {
	v := &Verify{Failures: []FailureCount{}, Differences: []Difference{}}
	var failed Repetition
	for rep, l := range loads {
		for i := range l.results {
			loaded := &l.results[i]
			if loaded.Failure != nil {
				continue
			}
			alone := cl.send(ctx, l.requests[i])
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if alone.Failure != nil {
				failed.countFailure(alone.Failure)
				continue
			}
			v.compare(rep, i, loaded, &alone)
		}
	}
	v.Failures = append(v.Failures, failed.Failures...)
	return v, nil
}

func (v *Verify) compare(rep, i int, loaded, alone *Result) {
	v.Compared++
	d := Difference{Rep: rep, Request: i, Token: -1, Byte: firstDifference([]byte(loaded.Text), []byte(alone.Text))}
	if len(loaded.IDs) > 0 && len(alone.IDs) > 0 {
		v.IDsCompared++
		d.Token = firstDifference(loaded.IDs, alone.IDs)
	}
	if d.Token < 0 && d.Byte < 0 {
		return
	}
	v.Differing++
	if len(v.Differences) < maxDifferences {
		d.Loaded, d.Alone = around(loaded.Text, d.Byte), around(alone.Text, d.Byte)
		v.Differences = append(v.Differences, d)
	}
}

// firstDifference is the first index at which a and b differ, or -1 when they are equal.
func firstDifference[T comparable](a, b []T) int {
	if slices.Equal(a, b) {
		return -1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// around is the text near byte i.
func around(text string, i int) string {
	begin := min(max(i-20, 0), len(text))
	return excerpt([]byte(text[begin:min(begin+80, len(text))]))
}
