package sestina

import (
	"context"
	"fmt"

	"sestina/backend/cpu"
	"sestina/checkpoint"
	"sestina/tokenizer"
)

// OpenTokenizer loads only a model's tokenizer. MODEL may also be a folder with
// nothing but tokenizer.json.
func OpenTokenizer(ctx context.Context, name string, opt Options) (*tokenizer.Tokenizer, error) {
	if t, ok, err := tokenizerFolder(name); ok || err != nil {
		return t, err
	}
	found, err := Resolve(ctx, name, opt)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.Open(found.Path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return LoadTokenizer(c)
}

// Logits computes the logits of every position of a sequence of ids, without an
// engine, and calls emit for each in order; the row is valid during the call.
func Logits(ctx context.Context, name string, opt Options, ids []int32, emit func(pos int, logits []float32) error) error {
	if len(ids) == 0 {
		return fmt.Errorf("no token ids were given")
	}
	const chunk = 64
	opt.MaxNumBatchedTokens, opt.MaxNumSeqs = chunk, chunk // rows of activations and of logits
	l, err := load(ctx, name, &opt)
	if err != nil {
		return err
	}
	defer l.Close()
	if len(ids) > l.Info.MaxContext {
		return fmt.Errorf("%d token ids are more than the model's context of %d", len(ids), l.Info.MaxContext)
	}
	opt.MaxModelLen, opt.MaxNumSeqs, opt.Techniques.KVLayout = len(ids), 1, "contiguous" // one sequence's blocks, to the end
	r, _, err := l.newRunner(&opt)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.Logits(ids, chunk, emit)
}

// CPUPath names the CPU kernels that this machine would use.
func CPUPath() string { return cpu.BestISA() }

// CPUBF16 says how those kernels add the products of BF16 weights: the one thing
// in which kernels differ by more than speed.
func CPUBF16() string { return cpu.BestBF16() }
