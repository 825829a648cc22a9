package ngram

import (
	"encoding/json"
	"fmt"
	"go/scanner"
	"go/token"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sestina/batch"
	"sestina/sampler"
	"sestina/spec"
)

// longest is the slow definition: the longest match of the end of tail in text,
// newest first, that is followed by a token; by brute force.
func longest(text, tail []int32, min int) (next, length int) {
	for end := len(text) - 1; end > 0; end-- { // text[end] follows
		n := 0
		for n < end && n < len(tail) && n < maxMatch && text[end-1-n] == tail[len(tail)-1-n] && text[end-1-n] != gap {
			n++
		}
		if n > length && text[end] != gap {
			next, length = end, n
		}
	}
	if length < min {
		return 0, 0
	}
	return next, length
}

// The index finds what brute force finds, in streams of every repetitiveness,
// with gaps, while it grows and after it has begun to forget.
func TestSearchEqualsBruteForce(t *testing.T) {
	for _, alphabet := range []int{60, 200, 1000} {
		for _, min := range []int{1, 2, 4} {
			const limit = 1024
			r := rand.New(rand.NewPCG(uint64(alphabet), uint64(min)))
			var x index
			x.init(min, limit)
			var text []int32
			found := 0
			say := func(id int32) {
				text = append(text, id)
				x.append(id)
				kept := text[max(0, len(text)-limit):]
				tail := kept
				for i := range kept {
					if kept[i] == gap {
						tail = kept[i+1:]
					}
				}
				if r.IntN(4) > 0 || len(tail) < min || candidates(kept, min) > maxChain {
					return
				}
				at, n := longest(kept, tail, min)
				m := x.search(tail, true, match{})
				if n != m.length || n > 0 && int(x.end)-int(m.next) != len(kept)-at {
					t.Fatalf("alphabet %d, min %d, %d tokens: found %d at %d from the end, want %d at %d",
						alphabet, min, len(text), m.length, int(x.end)-int(m.next), n, len(kept)-at)
				}
				if n > 0 {
					found++
				}
			}
			for len(text) < 3*limit {
				say(int32(r.IntN(alphabet)))
				if len(text) > 20 && r.IntN(3) > 0 { // repeat something
					from := r.IntN(len(text) - 10)
					for _, id := range text[from : from+8] {
						say(id)
					}
				}
				if r.IntN(50) == 0 {
					say(gap)
				}
			}
			if found < 100 || len(x.ring) != limit || x.bytes() != 12*limit {
				t.Errorf("alphabet %d, min %d: %d matches, %d slots", alphabet, min, found, len(x.ring))
			}
		}
	}
}

// candidates counts the grams like the last one.
func candidates(text []int32, min int) (n int) {
	tail := text[len(text)-min:]
	for i := min; i <= len(text); i++ {
		if slices.Equal(text[i-min:i], tail) {
			n++
		}
	}
	return n * 2 // other grams may share its hash
}

func sequence(id int64, salt string, tokens ...int32) *batch.Sequence {
	return &batch.Sequence{ID: id, Salt: salt, Tokens: tokens, MaxTokens: 1 << 20}
}

func propose(t testing.TB, p *Proposer, seq *batch.Sequence, k int) []int32 {
	t.Helper()
	d, err := p.Propose([]*batch.Sequence{seq}, []int{k})
	if err != nil || len(d) != 1 {
		t.Fatal(d, err)
	}
	return d[0].Tokens
}

func mustNew(t testing.TB, cfg Config) *Proposer {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPropose(t *testing.T) {
	for _, c := range []struct {
		name   string
		tokens []int32
		k      int
		want   []int32
	}{
		{"nothing to find", []int32{1, 2, 3, 4}, 4, nil},
		{"one token", []int32{1}, 4, nil},
		{"too short a match", []int32{1, 2, 9, 2}, 4, nil},
		{"a continuation", []int32{1, 2, 3, 4, 5, 9, 1, 2}, 3, []int32{3, 4, 5}},
		{"the longest wins", []int32{7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2}, 1, []int32{3}},
		{"the newest of equals", []int32{1, 2, 3, 1, 2, 4, 1, 2}, 1, []int32{4}},
		{"a period goes on", []int32{1, 2, 3, 1, 2, 3, 1, 2, 3}, 7, []int32{1, 2, 3, 1, 2, 3, 1}},
		{"behind a token that was replaced", []int32{1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 99}, 3, []int32{6, 7, 8}},
		{"behind what was left out", []int32{1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 7}, 1, []int32{8}},
		{"one token repeated", []int32{5, 5, 5}, 4, []int32{5, 5, 5, 5}},
	} {
		p := mustNew(t, Config{MinMatch: 2})
		if n := len(c.tokens) - 1; n > 0 {
			propose(t, p, sequence(1, "", c.tokens[:n]...), c.k) // the step before
		}
		if got := propose(t, p, sequence(1, "", c.tokens...), c.k); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// What ended sequences said helps those of the same salt, and no others.
func TestPool(t *testing.T) {
	p := mustNew(t, Config{MinMatch: 2, PoolTokens: 1024, Pools: 2})
	end := func(id int64, salt string, tokens ...int32) {
		seq := sequence(id, salt, tokens...)
		propose(t, p, seq, 1)
		p.Release(seq)
	}
	end(1, "a", 1, 2, 3, 4)
	end(2, "a", 5, 6, 7, 8)
	if got := propose(t, p, sequence(3, "a", 9, 1, 2), 8); !slices.Equal(got, []int32{3, 4}) {
		t.Errorf("from the pool: %v, want 3 4 and not what another sequence said after it", got)
	}
	if got := propose(t, p, sequence(4, "b", 9, 1, 2), 8); len(got) != 0 {
		t.Errorf("another salt sees %v", got)
	}
	if got := propose(t, p, sequence(5, "a", 4, 5), 8); len(got) != 0 {
		t.Errorf("a match across two sequences: %v", got)
	}
	if got := propose(t, p, sequence(6, "a", 1, 2, 9, 1, 2), 1); !slices.Equal(got, []int32{9}) {
		t.Errorf("own text and pool match equally: %v, want one's own", got)
	}
	if got := propose(t, p, sequence(7, "a", 2, 9, 1, 2, 3, 0, 2, 3), 1); !slices.Equal(got, []int32{0}) {
		t.Errorf("%v", got)
	}
	end(8, "b", 1)
	end(9, "a", 1) // used again
	end(10, "c", 1)
	if p.pools["a"] == nil || p.pools["b"] != nil || p.pools["c"] == nil {
		t.Error("the least recently used pool of three was kept")
	}
	for i := range int64(100) {
		tokens := make([]int32, 100)
		for j := range tokens {
			tokens[j] = int32(i*100) + int32(j)
		}
		end(100+i, "a", tokens...)
	}
	if b := p.pools["a"].bytes(); b != 12*1024 {
		t.Errorf("a pool of 1024 tokens has %d bytes", b)
	}
	if got := propose(t, p, sequence(999, "a", 50, 51), 1); len(got) != 0 {
		t.Errorf("%v: said long ago and still known", got)
	}
	if got := propose(t, p, sequence(998, "a", 9950, 9951), 1); !slices.Equal(got, []int32{9952}) {
		t.Errorf("%v: the newest is forgotten", got)
	}
}

// Catching up after steps without a call finds the same as following each.
func TestCatchUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seq := sequence(1, "")
	often, seldom := mustNew(t, Config{}), mustNew(t, Config{})
	for i := range 2000 {
		seq.Tokens = append(seq.Tokens, int32(r.IntN(6)))
		propose(t, often, seq, 5)
		if i%97 == 0 {
			propose(t, seldom, seq, 5)
			a, b := often.seqs[1].search(seq.Tokens, true, match{}), seldom.seqs[1].search(seq.Tokens, true, match{})
			if a != b || a.length == 0 && i > 0 {
				t.Fatalf("token %d: %v and %v", i, a, b)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	build := func(options string) error {
		_, err := spec.Build("ngram", spec.Resources{Vocab: 10, MaxDraft: 8, Options: json.RawMessage(options)})
		return err
	}
	for _, bad := range []string{`{"prompt_lookup_min": 99}`, `{"pool_tokens": 99999999999}`, `{"nonsense": 1}`, `[`, `{"max_tokens": 1}`, `{"pools": -1}`} {
		if build(bad) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if err := build(`{"prompt_lookup_min": 3, "pool_tokens": -1}`); err != nil {
		t.Error(err)
	}
}

func FuzzPropose(f *testing.F) {
	f.Add([]byte{1, 2, 3, 1, 2}, uint8(2), uint8(5))
	f.Add([]byte{0, 0, 0, 0}, uint8(1), uint8(16))
	f.Fuzz(func(t *testing.T, text []byte, min, k uint8) {
		p := mustNew(t, Config{MinMatch: 1 + int(min%8), MaxTokens: leastCap, PoolTokens: leastCap})
		seq := sequence(1, "")
		for i, b := range text {
			if seq.Tokens = append(seq.Tokens, int32(b)); b%32 == 31 {
				p.Release(seq)
				seq = sequence(int64(i+2), "", int32(b))
			}
			for _, id := range propose(t, p, seq, int(k%17)) {
				if id < 0 || id > 255 {
					t.Fatalf("token %d was never said", id)
				}
			}
		}
	})
}

// work is a prompt and what is generated after it.
type work struct{ prompt, output []int32 }

// workloads are real text in tokens a few characters long, from this project's Go files:
// the files written from nothing, their comments alone, and each file given as
// the prompt and repeated with one token in 30 changed.
func workloads(t testing.TB) (vocab int, loads map[string][]work) {
	t.Helper()
	var files []string
	for _, folder := range []string{"kvcache", "sampler", "scheduler"} {
		more, _ := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
		files = append(files, more...)
	}
	if len(files) < 20 {
		t.Fatalf("%d Go files to read", len(files))
	}
	words := map[string]int32{}
	id := func(word string) int32 {
		if _, ok := words[word]; !ok {
			words[word] = int32(len(words))
		}
		return words[word]
	}
	loads = map[string][]work{}
	r := rand.New(rand.NewPCG(3, 1))
	for _, file := range files[:20] {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code, prose := scan(source, id)
		edited := slices.Clone(code)
		for i := range edited {
			if r.IntN(30) == 0 {
				edited[i] = code[r.IntN(len(code))]
			}
		}
		loads["code"] = append(loads["code"], work{code[:1], code[1:]})
		loads["prose"] = append(loads["prose"], work{prose[:1], prose[1:]})
		loads["edit"] = append(loads["edit"], work{code, edited})
	}
	return len(words), loads
}

// scan splits Go source into words, and its comments alone.
func scan(source []byte, id func(string) int32) (code, prose []int32) {
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(source)), source, nil, scanner.ScanComments)
	prose = append(prose, id("//"))
	for {
		_, tok, lit := s.Scan()
		switch {
		case tok == token.EOF:
			return code, prose
		case tok == token.COMMENT:
			for _, w := range strings.Fields(lit) {
				code, prose = append(code, id(w)), append(prose, id(w))
			}
			continue
		case lit == "":
			lit = tok.String()
		}
		code = append(code, id(lit))
	}
}

// TestMinMatch is the experiment behind the default of MinMatch: texts are
// generated greedily, one after the other, with the depth controller, on a machine
// whose step costs 1 + 0.1 a draft row.
func TestMinMatch(t *testing.T) {
	vocab, loads := workloads(t)
	def := mustNew(t, Config{}).cfg.MinMatch
	for _, name := range []string{"code", "prose", "edit"} {
		best, ours := 0., 0.
		for min := 1; min <= 5; min++ {
			gain, stats := replay(t, Config{MinMatch: min, PoolTokens: -1}, vocab, loads[name])
			t.Logf("%-5s match of at least %d: %.3f tokens per plain step; %d of %d drafts accepted", name, min, gain, stats.Accepted, stats.Drafted)
			best = max(best, gain)
			if min == def {
				ours = gain
			}
		}
		if ours < 0.95*best || ours < 0.98 {
			t.Errorf("%s: the default of %d gives %.3f, another %.3f", name, def, ours, best)
		}
	}
	own, _ := replay(t, Config{PoolTokens: -1}, vocab, loads["code"])
	pooled, _ := replay(t, Config{}, vocab, loads["code"])
	t.Logf("code, with a pool %.3f, without %.3f", pooled, own)
	if pooled < own {
		t.Errorf("a pool of earlier files of the same project: %.3f, without %.3f", pooled, own)
	}
}

// replay generates texts with drafts and says how many tokens a plain step's time gave.
func replay(t testing.TB, cfg Config, vocab int, texts []work) (gain float64, stats spec.Stats) {
	s := spec.New(spec.Config{Vocab: vocab, Now: func() time.Duration { return 0 }}, mustNew(t, cfg))
	params, row := batch.Greedy(), make([]float32, vocab)
	draw, err := sampler.New(&params, 0, vocab, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, cost := 0, 0.
	var v spec.Verification
	for i, w := range texts {
		seq := sequence(int64(i), "", w.prompt...)
		seq.PromptLen, seq.MaxTokens = len(w.prompt), len(w.output)
		for seq.NumOutput() < len(w.output) {
			s.Draft([]*batch.Sequence{seq}, 1)
			set := int32(0)
			target := spec.Target{Sampler: draw, Output: seq.NumOutput(),
				Row: func(i int) []float32 {
					row[set], set = 0, w.output[seq.NumOutput()+i]
					row[set] = 1
					return row
				},
				Ends: func(output int, _ int32) batch.FinishReason { return batch.NotFinished }}
			if err := s.Verify(&v, seq, &target); err != nil {
				t.Fatal(err)
			}
			row[set] = 0
			n := len(seq.Drafts)
			took := 1 + 0.1*float64(n)
			seq.Tokens = append(seq.Tokens, v.Tokens...)
			step := &batch.Step{Seqs: []batch.Scheduled{{Seq: seq, NumTokens: 1 + n, NumDrafts: n}}}
			s.Done(step, []batch.Result{{Tokens: v.Tokens}}, time.Duration(took*float64(10*time.Millisecond)))
			tokens, cost = tokens+len(v.Tokens), cost+took
		}
		if !slices.Equal(seq.Tokens[seq.PromptLen:], w.output) {
			t.Fatal("drafts changed the text")
		}
		s.Release(seq)
	}
	return float64(tokens) / cost, s.Stats()
}

// text repeats itself about as often as code does.
func text(n int) []int32 {
	r := rand.New(rand.NewPCG(4, 4))
	var out []int32
	for len(out) < n {
		if len(out) > 100 && r.IntN(2) == 0 {
			from := r.IntN(len(out) - 50)
			out = append(out, out[from:from+5+r.IntN(20)]...)
		}
		out = append(out, int32(r.ExpFloat64()*500))
	}
	return out[:n]
}

// BenchmarkCommit is the time to index one committed token.
func BenchmarkCommit(b *testing.B) {
	tokens := text(1 << 16)
	for _, n := range []int{1 << 10, 1 << 16} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				var x index
				x.init(2, 1<<17)
				for _, id := range tokens[:n] {
					x.append(id)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/token")
		})
	}
}

// BenchmarkPropose is the time of one proposal of 8 tokens.
func BenchmarkPropose(b *testing.B) {
	for name, tokens := range map[string][]int32{"text": text(1 << 15), "zeros": make([]int32, 1<<15)} {
		b.Run(name, func(b *testing.B) {
			p := mustNew(b, Config{})
			seqs, k := []*batch.Sequence{sequence(1, "", tokens...)}, []int{8}
			n := len(tokens) / 2
			b.ReportAllocs()
			for b.Loop() {
				if n++; n == len(tokens) {
					n = len(tokens) / 2
					delete(p.seqs, 1)
				}
				seqs[0].Tokens = tokens[:n]
				p.Propose(seqs, k)
			}
		})
	}
}
