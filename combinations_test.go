package sestina_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sestina"
	"sestina/backend"
	"sestina/backend/backendtest"
	"sestina/batch"
	"sestina/engine"
)

// Techniques change cost, never answers: not alone, and not together. The same
// requests run under a covering array of all switches and options (every pair
// of values meets in some combination) and traces (a crowd, clients that leave
// and come back, waves that find one another's prefixes), over pools so small
// that sequences are preempted. Tokens, log probabilities and finish reasons are
// bitwise those of the scalar backend, one request at a time, with whatever can
// be off off. Only the model and the two dtypes may change an answer, so each of
// their combinations has a reference of its own.
//
// TestPlantedBugsAreFound is the twin that must fail: bugs that need two options
// to show are found by the array, and reduced to those two.
//
//	SESTINA_THOROUGH=20 go test -run TestCombinationsChangeNoAnswer -v .     # 20 arrays and sets of requests instead of one

// trial is one combination, spelled for the engine.
type trial struct {
	sestina.Options
	model string
	tier  string
	pool  string
	trace string
}

var factors = []factor{
	{"model", []string{"llama", "window", "hybrid"}, func(s *trial, v string) { s.model = v }, "hybrid"},
	{"kv-cache", []string{"on", "off"}, func(s *trial, v string) { s.Techniques.KVCache = v }, "on"},
	{"kv-layout", []string{"paged", "contiguous"}, func(s *trial, v string) { s.Techniques.KVLayout = v }, "paged"},
	{"attention", []string{"flash", "full"}, func(s *trial, v string) { s.Techniques.Attention = v }, ""},
	{"gqa", []string{"grouped", "expanded"}, func(s *trial, v string) { s.Techniques.GQA = v }, ""},
	{"batching", []string{"continuous", "static", "none"}, func(s *trial, v string) { s.Techniques.Batching = v }, "continuous"},
	{"prefix-caching", []string{"off", "on"}, func(s *trial, v string) { s.Techniques.PrefixCaching = v }, ""},
	{"chunked-prefill", []string{"on", "off"}, func(s *trial, v string) { s.Techniques.ChunkedPrefill = v }, ""},
	{"speculation", []string{"off", "ngram auto", "ngram fixed", "draft_model auto", "draft_model fixed", "mtp fixed"}, setSpeculation, ""},
	{"block-size", []string{"16", "1", "4", "7", "32"}, func(s *trial, v string) { s.BlockSize = number(v) }, ""},
	{"batched-tokens", []string{"0", "1", "17", "64", "512"}, func(s *trial, v string) { s.MaxNumBatchedTokens = number(v) }, ""},
	{"num-seqs", []string{"8", "1", "2", "32"}, func(s *trial, v string) { s.MaxNumSeqs = number(v) }, "8"},
	{"threads", []string{"1", "2"}, func(s *trial, v string) { s.Threads = number(v) }, "1"},
	{"isa", []string{"", "generic"}, func(s *trial, v string) { s.ISA = v }, ""},
	{"kv-dtype", []string{"f16", "f32", "bf16", "q8_0", "q4_0", "q8_0,0=f16"}, func(s *trial, v string) { s.KVCacheDType = v }, ""},
	{"activations", []string{"auto", "f32"}, func(s *trial, v string) { s.ActivationDType = v }, ""},
	{"tier", []string{"none", "host", "disk"}, func(s *trial, v string) { s.tier = v }, ""},
	{"pool", []string{"roomy", "tight", "starved"}, func(s *trial, v string) { s.pool = v }, "starved"},
	{"trace", []string{"crowd", "leaving", "waves"}, func(s *trial, v string) { s.trace = v }, ""},
}

// impossible are the pairs that the engine refuses by name (TestImpossiblePairsAreRefused).
var impossible = func() map[pair]bool {
	no := map[pair]bool{}
	forbid := func(a, v, b, w string) {
		f, i := named(factors, a, v)
		g, j := named(factors, b, w)
		no[makePair(f, i, g, j)] = true
	}
	forbid("kv-cache", "off", "prefix-caching", "on")
	forbid("kv-layout", "contiguous", "prefix-caching", "on")
	for _, tier := range []string{"host", "disk"} { // found by prefix
		forbid("prefix-caching", "off", "tier", tier)
		forbid("kv-cache", "off", "tier", tier)
		forbid("kv-layout", "contiguous", "tier", tier)
	}
	for _, n := range []string{"1", "17", "64"} {
		forbid("chunked-prefill", "off", "batched-tokens", n)
	}
	return no
}()

func number(v string) int {
	n, err := strconv.Atoi(v)
	if err != nil {
		panic(err)
	}
	return n
}

func setSpeculation(s *trial, v string) {
	method, depth, on := strings.Cut(v, " ")
	if !on {
		s.Techniques.Speculation = v
		return
	}
	s.SpeculativeConfig = fmt.Sprintf(`{"method":%q,"num_speculative_tokens":4,"depth":%q`, method, depth)
	switch method {
	case "draft_model":
		s.SpeculativeConfig += `,"model":"DRAFT"`
	case "mtp":
		s.SpeculativeConfig += `,"model":"LAYER"`
	}
	s.SpeculativeConfig += "}"
}

// longest is the context: a prompt and its answer never exceed it.
const longest = 112

// suite is a set of requests and, by model and dtypes, their answers.
type suite struct {
	seed       uint64
	models     map[string]string // file, by name
	drafts     map[string]string // of its draft model
	layers     map[string]string // of its MTP layer
	disk       string            // the disk tier: what one combination leaves there, others find
	backend    string            // "" = the default
	references map[string]*reference
	stats      tally
}

type reference struct {
	requests   []engine.Request
	answers    []reply
	tokenBytes uint64
}

// tally is what happened over all combinations: a test in which nothing was
// preempted or found in the cache shows nothing.
type tally struct {
	answers, cut, tokens, drafted, accepted int
	preemptions, hits, recomputed           uint64
	tiered, diskReads                       uint64
	grouped                                 int // combinations with several block groups
}

func newSuite(t testing.TB, seed uint64) *suite {
	t.Helper()
	s := &suite{seed: seed, disk: t.TempDir(), references: references, models: map[string]string{}, drafts: map[string]string{}, layers: map[string]string{}}
	write := func(name string, shape tinyShape) string {
		var w bytes.Buffer
		if err := writeTiny(&w, shape); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name+".gguf")
		if err := os.WriteFile(path, w.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, shape := range map[string]tinyShape{"llama": {heads: 4, kv: 2, dim: 32}, "window": {heads: 2, kv: 1, dim: 32, window: 24},
		"hybrid": {heads: 2, kv: 2, dim: 32, window: 20, hybrid: true}} {
		s.models[name], s.layers[name] = write(name, shape), tinyMTP(t, shape)
		shape.noise = 0.15
		s.drafts[name] = write("draft", shape)
	}
	return s
}

// references are kept: every suite of one seed asks the same of the same models.
var references = map[string]*reference{}

// open starts an engine for a combination; the first requests it serves are ours.
func (s *suite) open(c combination) (*sestina.LLM, *reference, *trial, error) {
	tr := &trial{}
	for f := range factors {
		factors[f].set(tr, factors[f].values[c[f]])
	}
	ref, err := s.reference(tr)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("the reference: %w", err)
	}
	tr.Backend, tr.MaxModelLen, tr.Log = s.backend, longest, slog.New(slog.NewTextHandler(io.Discard, nil))
	tr.SpeculativeConfig = strings.NewReplacer("DRAFT", s.drafts[tr.model], "LAYER", s.layers[tr.model]).Replace(tr.SpeculativeConfig)
	slots := map[string]int{"starved": longest, "tight": longest * 5 / 4, "roomy": 40 * longest}[tr.pool]
	blocks := (slots + tr.BlockSize - 1) / tr.BlockSize
	tr.KVCacheMemoryBytes = uint64(blocks*tr.BlockSize) * ref.tokenBytes
	if strings.Contains(tr.SpeculativeConfig, `"mtp"`) {
		tr.KVCacheMemoryBytes += tr.KVCacheMemoryBytes / 2 // one layer more than two
	}
	switch tr.tier {
	case "disk": // little memory above it
		tr.KVDiskTier, tr.KVHostTierBytes = s.disk, longest*ref.tokenBytes
	case "host":
		tr.KVHostTierBytes = 40 * longest * ref.tokenBytes
	}
	llm, err := sestina.Open(context.Background(), s.models[tr.model], tr.Options)
	return llm, ref, tr, err
}

// reference answers the requests one after the other on the scalar backend.
func (s *suite) reference(tr *trial) (*reference, error) {
	key := fmt.Sprint(s.seed, tr.model, tr.KVCacheDType, tr.ActivationDType)
	if r := s.references[key]; r != nil {
		return r, nil
	}
	plain := sestina.Options{Backend: "ref", KVCacheDType: tr.KVCacheDType, ActivationDType: tr.ActivationDType, KVCacheMemoryBytes: 1 << 20}
	plain.MaxModelLen = longest
	plain.Techniques = engine.Techniques{KVLayout: "contiguous", Batching: "none", PrefixCaching: "off", Speculation: "off"}
	llm, err := sestina.Open(context.Background(), s.models[tr.model], plain)
	if err != nil {
		return nil, err
	}
	defer llm.Close()
	r := &reference{requests: requests(s.seed, llm.Info.Vocab), tokenBytes: llm.Pool.TokenBytes}
	for _, req := range r.requests {
		r.answers = append(r.answers, ask(llm, req, nil))
	}
	s.references[key] = r
	return r, nil
}

// run answers all requests under one combination and returns the first difference;
// with a disk tier once more, by a second process's engine that finds what the first left.
func (s *suite) run(c combination) error {
	err := s.once(c)
	if f, disk := named(factors, "tier", "disk"); err == nil && c[f] == disk {
		err = s.once(c)
	}
	return err
}

func (s *suite) once(c combination) error {
	llm, ref, tr, err := s.open(c)
	if err != nil {
		return err
	}
	defer llm.Close()
	got := make([]reply, len(ref.requests))
	play(llm, tr, ref.requests, got)
	st := llm.Engine.Stats()
	s.stats.preemptions, s.stats.hits, s.stats.recomputed = s.stats.preemptions+st.Preemptions, s.stats.hits+st.PrefixHitTokens, s.stats.recomputed+st.RecomputedTokens
	s.stats.tiered += st.TierTokens
	if st.Tier != nil {
		s.stats.diskReads += st.Tier.DiskReads
	}
	if len(llm.Pool.Windows) > 1 {
		s.stats.grouped++
	}
	if sp := st.Speculation; sp != nil {
		s.stats.drafted, s.stats.accepted = s.stats.drafted+int(sp.Drafted), s.stats.accepted+int(sp.Accepted)
	}
	if b := st.Blocks; b.Free+b.Idle != b.Total {
		return fmt.Errorf("blocks left behind: %+v", b)
	}
	for i := range got {
		if err := got[i].differs(&ref.answers[i]); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		s.stats.answers, s.stats.tokens = s.stats.answers+1, s.stats.tokens+got[i].count
		if got[i].cut {
			s.stats.cut++
		}
	}
	return nil
}

// play sends the requests as the trace says and waits for the answers.
func play(llm *sestina.LLM, tr *trial, reqs []engine.Request, got []reply) {
	var all sync.WaitGroup
	for i, req := range reqs {
		all.Go(func() {
			if tr.trace == "leaving" && i%2 == 0 {
				first := ask(llm, req, func(count int) bool { return count >= i/2 })
				if i%4 == 0 && first.err == nil { // and comes back at once
					first = ask(llm, req, nil)
				}
				got[i] = first
				return
			}
			got[i] = ask(llm, req, nil)
		})
		if tr.trace == "waves" && i%5 == 4 {
			all.Wait()
		}
	}
	all.Wait()
}

// arrays is how many covering arrays are run.
func arrays(t testing.TB) uint64 {
	text := os.Getenv("SESTINA_THOROUGH")
	if text == "" {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n < 1 {
		t.Fatalf("SESTINA_THOROUGH is %q; it must be a number of arrays", text)
	}
	return n
}

func TestCombinationsChangeNoAnswer(t *testing.T) {
	for seed := range arrays(t) {
		s := newSuite(t, seed+1)
		rows := covering(factors, impossible, rand.New(rand.NewPCG(seed+1, 2)))
		held := map[pair]bool{}
		for _, c := range rows {
			if err := s.run(c); err != nil {
				least := c.reduce(impossible, func(c combination) bool { return s.run(c) != nil })
				t.Errorf("seed %d, %s\ndiffers: %v\nenough is: %s", seed+1, c.describe(factors), err, least.describe(factors))
				continue
			}
			for p := range c.pairs {
				held[p] = true
			}
		}
		st, all := s.stats, len(allPairs(factors, impossible))
		if len(held) != all || st.preemptions < 3 || st.hits == 0 || st.cut == 0 || st.accepted == 0 || st.accepted == st.drafted || st.recomputed == 0 || st.tiered == 0 || st.diskReads == 0 || st.grouped == 0 {
			t.Errorf("%d of %d pairs, %+v: the test shows less than it should", len(held), all, st)
		}
		t.Logf("T04 seed %d: %d option sets hold all %d pairs of %d factors; %d answers (%d cut short, %d tokens) compared, 0 differ; %d preemptions, %d tokens found in the prefix cache, %d brought back from a tier, %d blocks from disk, %d option sets with several block groups, %d of %d drafts accepted",
			seed+1, len(rows), len(held), len(factors), st.answers, st.cut, st.tokens, st.preemptions, st.hits, st.tiered, st.diskReads, st.grouped, st.accepted, st.drafted)
	}
}

// What the array leaves out is what Open refuses.
func TestImpossiblePairsAreRefused(t *testing.T) {
	s := newSuite(t, 1)
	for p := range impossible {
		c := make(combination, len(factors))
		c[p.f], c[p.g] = p.v, p.w
		if llm, _, _, err := s.open(c); err == nil {
			llm.Close()
			t.Errorf("%s was taken", c.describe(factors))
		} else if !strings.Contains(err.Error(), "--") {
			t.Errorf("%s: %v; want the flag's name", c.describe(factors), err)
		}
	}
}

// planted are backends with one bug each. The last two show only where two options meet.
var planted = []struct {
	name  string
	plant func(b backend.Backend, o backend.Options) backend.Backend
	needs []string // what the combination must be reduced to, where that is known
}{
	{"more than 16 rows sum in two halves", func(b backend.Backend, _ backend.Options) backend.Backend { return backendtest.SplitK(b, 16) }, nil},
	{"a chunk counts its tiles from elsewhere", func(b backend.Backend, _ backend.Options) backend.Backend { return backendtest.ShiftTiles(b) }, nil},
	{"copies of blocks are forgotten", func(b backend.Backend, _ backend.Options) backend.Backend { return &noCopies{b} }, nil},
	{"expanded heads and blocks of 7", func(b backend.Backend, o backend.Options) backend.Backend {
		return &louder{b, func(in *batch.Input) bool { return o.ExpandHeads && in.BlockSize == 7 }}
	}, []string{"gqa=expanded", "block-size=7"}},
	{"the full matrix on two threads", func(b backend.Backend, o backend.Options) backend.Backend {
		return &louder{b, func(*batch.Input) bool { return o.FullAttention && o.Threads == 2 }}
	}, []string{"attention=full", "threads=2"}},
}

type noCopies struct{ backend.Backend }

func (noCopies) CopyBlocks(backend.Cache, []batch.BlockCopy) {}

// louder adds a little to what attention returns.
type louder struct {
	backend.Backend
	when func(*batch.Input) bool
}

func (b *louder) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	b.Backend.Attend(dst, qkv, in, kv, op)
	if b.when(in) {
		for i := range dst.N {
			dst.Row(i)[0] += 0.5
		}
	}
}

func init() {
	for _, p := range planted {
		backend.Register("planted: "+p.name, func(o backend.Options) (backend.Backend, error) {
			b, err := backend.Open("cpu", o)
			if err != nil {
				return nil, err
			}
			return p.plant(b, o), nil
		})
	}
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			s := newSuite(t, 1)
			s.backend = "planted: " + p.name
			rows := covering(factors, impossible, rand.New(rand.NewPCG(1, 2)))
			bad := func(c combination) bool {
				s.disk = t.TempDir() // what a bug left there would find itself again without the bug
				return s.run(c) != nil
			}
			n := slices.IndexFunc(rows, bad)
			if n < 0 {
				t.Fatalf("not found by %d combinations", len(rows))
			}
			t.Logf("T04 planted bug found by combination %d of %d", n+1, len(rows))
			if p.needs == nil {
				return
			}
			least := rows[n].reduce(impossible, bad)
			if got, want := least.describe(factors), strings.Join(p.needs, " "); got != want {
				t.Errorf("reduced to %q, want %q", got, want)
			}
		})
	}
}
