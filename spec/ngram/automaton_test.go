package ngram

import (
	"testing"
	"time"
)

// automaton is the textbook alternative to index: a suffix automaton of the
// stream (Blumer et al. 1985), grown token by token, with a cursor at the longest
// suffix that occurred before. Here it is the oracle, and what index is measured
// against: it finds the longest match always, but names its first occurrence, not
// the newest, and can forget nothing.
type automaton struct {
	states []sam
	last   int32
	cursor int32 // state of the longest suffix that occurred before
	length int32 // of that suffix
	text   []int32
}

type sam struct {
	length, link, end int32 // end: where it first occurred ends
	next              map[int32]int32
}

func newAutomaton() *automaton {
	return &automaton{states: []sam{{link: -1}}}
}

func (a *automaton) append(token int32) {
	a.follow(token)
	a.text = append(a.text, token)
	cur := a.add(sam{length: a.states[a.last].length + 1, end: int32(len(a.text) - 1)})
	p := a.last
	for ; p >= 0; p = a.states[p].link {
		if _, ok := a.states[p].next[token]; ok {
			break
		}
		a.edge(p, token, cur)
	}
	a.last = cur
	if p < 0 {
		return
	}
	q := a.states[p].next[token]
	if a.states[p].length+1 == a.states[q].length {
		a.states[cur].link = q
		return
	}
	next := make(map[int32]int32, len(a.states[q].next))
	for t, s := range a.states[q].next {
		next[t] = s
	}
	clone := a.add(sam{length: a.states[p].length + 1, link: a.states[q].link, end: a.states[q].end, next: next})
	for ; p >= 0 && a.states[p].next[token] == q; p = a.states[p].link {
		a.edge(p, token, clone)
	}
	a.states[q].link, a.states[cur].link = clone, clone
	if a.cursor == q && a.length <= a.states[clone].length {
		a.cursor = clone // the shorter suffixes of q are its clone's now
	}
}

// follow moves the cursor over token, in the automaton of what came before it.
func (a *automaton) follow(token int32) {
	for {
		if to, ok := a.states[a.cursor].next[token]; ok {
			a.cursor, a.length = to, a.length+1
			return
		}
		if a.states[a.cursor].link < 0 {
			a.length = 0
			return
		}
		a.cursor = a.states[a.cursor].link
		a.length = a.states[a.cursor].length
	}
}

func (a *automaton) add(s sam) int32 {
	a.states = append(a.states, s)
	return int32(len(a.states) - 1)
}

func (a *automaton) edge(from, token, to int32) {
	if a.states[from].next == nil {
		a.states[from].next = map[int32]int32{}
	}
	a.states[from].next[token] = to
}

// edges is how many transitions there are.
func (a *automaton) edges() (n int) {
	for i := range a.states {
		n += len(a.states[i].next)
	}
	return n
}

// stream is all code of the workloads, one file after the other.
func stream(t testing.TB) (tokens []int32) {
	_, loads := workloads(t)
	for _, w := range append(loads["code"], loads["edit"]...) {
		tokens = append(append(tokens, w.prompt...), w.output...)
	}
	return tokens
}

// TestIndexAgainstSuffixAutomaton is the reason why a sequence has a hash chain and
// no suffix automaton: on source code, the most repetitive text there is, the chain's
// bound of maxChain candidates costs next to no match, and its memory and time are a
// fraction. The automaton agrees on every length below that bound.
func TestIndexAgainstSuffixAutomaton(t *testing.T) {
	tokens := stream(t)
	a := newAutomaton()
	began := time.Now()
	for _, id := range tokens {
		a.append(id)
	}
	took := time.Since(began)

	var x index
	x.init(2, 1<<17)
	began = time.Now()
	for _, id := range tokens {
		x.append(id)
	}
	tookIndex := time.Since(began)

	a = newAutomaton()
	h := history{}
	h.init(2, 1<<17)
	missed, alone, found := 0, 0, 0
	for i, id := range tokens {
		a.append(id)
		h.say(id)
		want := min(int(a.length), maxMatch)
		if want < 2 {
			want = 0
		} else {
			found++
		}
		if m := h.search(tokens[:i+1], true, match{}); m.length < want {
			alone++
		}
		if h.found = h.search(tokens[:i+1], true, h.found); h.found.length > want {
			t.Fatalf("token %d: a match of %d where the longest has %d", i, h.found.length, want)
		}
		if h.found.length < want {
			missed++
		}
	}
	// A state has three numbers and a table; a transition at least two numbers.
	bytes := 12*len(a.states) + 8*a.edges()
	t.Logf("%d tokens, %d with a match; the longest is missed at %.2f %%, without what was known at %.2f %%",
		len(tokens), found, 100*float64(missed)/float64(found), 100*float64(alone)/float64(found))
	t.Logf("bytes a token: index %.1f, automaton at least %.1f; time to append all: %v and %v", float64(h.bytes())/float64(len(tokens)), float64(bytes)/float64(len(tokens)), tookIndex, took)
	if missed*100 > found || found*2 < len(tokens) {
		t.Errorf("%d of %d matches are shorter than the longest: a suffix automaton would pay", missed, found)
	}
	if h.bytes() > bytes {
		t.Errorf("the index takes %d bytes, an automaton %d", h.bytes(), bytes)
	}
}
