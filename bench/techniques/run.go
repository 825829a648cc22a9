package techniques

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"sestina"
	"sestina/engine"
	"sestina/explain/plan"
	"sestina/internal/cpuinfo"
)

const usualContext = 2048 // what the seed article's server reserves

// Run measures every setting on a model. opt holds what is not a technique:
// threads, kernels, dtypes; progress is told what is being measured.
func Run(ctx context.Context, name string, opt sestina.Options, cfg Config, progress func(string)) (*Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s, err := newSuite(ctx, name, opt, cfg)
	if err != nil {
		return nil, err
	}
	s.progress = progress
	if err := s.each(); err != nil {
		return nil, err
	}
	if err := s.ladder(); err != nil {
		return nil, err
	}
	return &s.report, nil
}

// suite is one run over all settings.
type suite struct {
	ctx      context.Context
	path     string
	opt      sestina.Options
	cfg      Config
	built    []error // nil, or why a technique cannot be switched
	prompts  [][]int32
	vocab    int
	seed     uint64 // of the newest prompts
	report   Report
	seen     map[engine.Techniques]*result // settings that were measured
	progress func(string)
}

func newSuite(ctx context.Context, name string, opt sestina.Options, cfg Config) (*suite, error) {
	found, err := sestina.Resolve(ctx, name, opt)
	if err != nil {
		return nil, err
	}
	shape, err := plan.Read(found.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", found.Name, err)
	}
	need := cfg.longest()
	if cfg.MaxModelLen == 0 {
		cfg.MaxModelLen = min(max(usualContext, need), shape.Context)
	}
	if need > cfg.MaxModelLen || cfg.MaxModelLen > shape.Context {
		return nil, fmt.Errorf("prompt + output are %d tokens and --max-model-len %d; the model's context is %d", need, cfg.MaxModelLen, shape.Context)
	}
	s := &suite{ctx: ctx, path: found.Path, opt: opt, cfg: cfg, built: unbuilt(), seen: map[engine.Techniques]*result{}}
	if s.opt.BlockSize == 0 {
		s.opt.BlockSize = engine.DefaultBlockSize
	}
	s.opt.MaxNumSeqs, s.opt.MaxModelLen, s.opt.MaxNumBatchedTokens = cfg.seats(), cfg.MaxModelLen, cfg.BatchTokens
	if s.opt.KVCacheMemoryBytes, err = memory(shape, s.opt, cfg); err != nil {
		return nil, err
	}
	s.vocab = shape.Vocab
	s.prompts = prompts(cfg, s.vocab, s.seed)
	s.report = Report{Schema: Schema, Model: found.Name, Config: cfg, KVBytes: s.opt.KVCacheMemoryBytes}
	return s, nil
}

// memory is what K and V of all seats take in blocks, and at least one context.
func memory(shape plan.Shape, opt sestina.Options, cfg Config) (uint64, error) {
	format, err := sestina.ParseKVFormat(opt.KVCacheDType)
	if err != nil {
		return 0, err
	}
	bytes := uint64(0)
	for _, r := range []plan.Request{
		{Users: cfg.seats(), Context: cfg.longest()}, {Users: 1, Context: cfg.MaxModelLen},
	} {
		r.KVDType, r.KVLayers, r.BlockSize = format.DType, format.Layers, opt.BlockSize
		p, err := plan.Make(shape, r)
		if err != nil {
			return 0, err
		}
		bytes = max(bytes, p.KVBytes)
	}
	return bytes, nil
}

// prompts are random ids that begin alike.
func prompts(cfg Config, vocab int, seed uint64) [][]int32 {
	rng := rand.New(rand.NewPCG(1, seed))
	draw := func(n int) []int32 {
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = int32(rng.IntN(vocab))
		}
		return ids
	}
	shared, all := draw(cfg.SharedLen), make([][]int32, cfg.Users)
	for i := range all {
		all[i] = slices.Concat(shared, draw(cfg.PromptLen-cfg.SharedLen))
	}
	return all
}

// each measures all on, then every technique off in turn.
func (s *suite) each() error {
	full := everything(true)
	on, err := s.measure(full, AllOn)
	if err != nil {
		return err
	}
	s.add(AllOn, AllOn, full, on)
	s.report.Product = 1
	for i, t := range all {
		name := t.name + " off"
		if s.built[i] != nil {
			s.refused(Off, name, s.built[i])
			continue
		}
		off := full.with(i, false)
		got, err := s.measure(off, name)
		if err != nil {
			return err
		}
		row := s.add(Off, name, off, got)
		reference := off.with(i, true) // without what this one needs
		base, err := s.measure(reference, name+", its reference")
		if err != nil {
			return err
		}
		if base != on {
			row.Against = "without " + needs(t) + " on either side"
		}
		row.Gain = base.speed / got.speed
		s.report.Product *= row.Gain
	}
	return s.static(full)
}

// needs names what cannot be on while a technique is off.
func needs(t technique) string {
	var names []string
	for _, o := range all {
		if slices.Contains(t.needs, o.id) {
			names = append(names, o.name)
		}
	}
	return strings.Join(names, " and ")
}

// static is the row between continuous batching and none.
func (s *suite) static(full setting) error {
	t := full.switches(s.built)
	t.Batching = "static"
	got, err := s.measureSwitches(t, s.cfg.Users, "static batching")
	if err != nil {
		return err
	}
	row := s.addSwitches(Off, "static batching", t, got)
	row.Gain = s.report.Rows[0].Speed / got.speed
	return nil
}

// ladder starts with nothing and adds one technique at a time.
func (s *suite) ladder() error {
	rung := everything(false)
	last, err := s.measure(rung, "naive")
	if err != nil {
		return err
	}
	s.add(Ladder, "naive", rung, last)
	naive := last
	for i, t := range all {
		name := "+ " + t.name
		rung = rung.with(i, true)
		if s.built[i] != nil {
			s.refused(Ladder, name, s.built[i])
			continue
		}
		got, err := s.measure(rung, name)
		if err != nil {
			return err
		}
		s.add(Ladder, name, rung, got).Gain = got.speed / last.speed
		last = got
	}
	s.report.Total = s.report.Rows[0].Speed / naive.speed
	return nil
}

// measure runs a setting, or finds it among those that were run.
func (s *suite) measure(set setting, name string) (*result, error) {
	users := s.cfg.Users
	if set.serial(s.built) {
		users = s.cfg.SerialUsers
	}
	return s.measureSwitches(set.switches(s.built), users, name)
}

func (s *suite) measureSwitches(t engine.Techniques, users int, name string) (*result, error) {
	if err := t.Check(); err != nil { // and fills the defaults, so that equal settings are equal
		return nil, err
	}
	if r := s.seen[t]; r != nil {
		return r, nil
	}
	s.progress(fmt.Sprintf("%s (users: %d)", name, users))
	r, err := s.run(t, users)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.seen[t] = r
	return r, nil
}

func (s *suite) add(group, name string, set setting, r *result) *Row {
	return s.addSwitches(group, name, set.switches(s.built), r)
}

func (s *suite) addSwitches(group, name string, t engine.Techniques, r *result) *Row {
	t.Check() // fills the defaults; it has been measured, so it is valid
	if s.report.Machine == "" {
		s.report.Machine = cpuinfo.Name() + " · " + r.describe
	}
	row := Row{Group: group, Name: name, Switches: &t, Users: len(r.answers), TTFT: r.ttft, TPOT: r.tpot, Speed: r.speed, Slowest: r.slowest, Runs: r.runs, PeakKV: r.peakKV, Fitting: r.fitting}
	for i, ids := range r.answers {
		if first := s.seen[*s.first(&t)]; !slices.Equal(ids, first.answers[i]) {
			row.Differing++
		}
	}
	s.report.Rows = append(s.report.Rows, row)
	return &s.report.Rows[len(s.report.Rows)-1]
}

// first is the switches of the first row, all on, or these if there is none yet.
func (s *suite) first(t *engine.Techniques) *engine.Techniques {
	if len(s.report.Rows) == 0 {
		return t
	}
	return s.report.Rows[0].Switches
}

func (s *suite) refused(group, name string, err error) {
	s.report.Rows = append(s.report.Rows, Row{Group: group, Name: name, NotBuilt: err.Error()})
}
