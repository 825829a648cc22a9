package sampler

import (
	"math/bits"
	"slices"

	"sestina/batch"
)

// counts is what the repetition, frequency and presence penalties remember: the
// distinct tokens of prompt and output, sorted, and how often each was output.
// Sparse, so that a row costs the tokens seen and not the vocabulary, and a
// sequence holds a few kilobytes. Off, it stays empty.
type counts struct {
	repetition, frequency, presence float32 // 1, 0, 0 = off

	on  bool
	ids []int32 // ascending
	n   []int32 // times in the output; 0 = in the prompt only
}

func (c *counts) init(p *batch.SamplingParams, prompt []int32, vocab int) {
	c.repetition, c.frequency, c.presence = p.RepetitionPenalty, p.FrequencyPenalty, p.PresencePenalty
	if c.repetition == 0 {
		c.repetition = 1
	}
	c.on = c.repetition != 1 || c.frequency != 0 || c.presence != 0
	if c.repetition != 1 {
		c.ids = distinct(prompt, vocab)
		c.n = make([]int32, len(c.ids))
	}
}

// distinct returns the ids of tokens once each, ascending, by way of a bitmap:
// long prompts are not sorted.
func distinct(tokens []int32, vocab int) []int32 {
	seen, n := make([]uint64, (vocab+63)/64), 0
	for _, t := range tokens {
		if seen[t/64]>>(t%64)&1 == 0 {
			seen[t/64] |= 1 << (t % 64)
			n++
		}
	}
	ids := make([]int32, 0, n+64)
	for i, word := range seen {
		for ; word != 0; word &= word - 1 {
			ids = append(ids, int32(i*64+bits.TrailingZeros64(word)))
		}
	}
	return ids
}

func (c *counts) commit(token int32) {
	if !c.on {
		return
	}
	i, found := slices.BinarySearch(c.ids, token)
	if !found {
		c.ids = slices.Insert(c.ids, i, token)
		c.n = slices.Insert(c.n, i, 0)
	}
	c.n[i]++
}

// penalize divides positive logits of seen tokens by the repetition penalty and
// multiplies the others by it (CTRL, Keskar et al. 2019, with the sign handled
// as Hugging Face and vLLM do); then OpenAI's rule for output tokens:
// logit −= count·frequency + presence.
func (c *counts) penalize(logits []float32) {
	for i, id := range c.ids {
		l := logits[id]
		if l > 0 {
			l /= c.repetition
		} else {
			l = float32(l * c.repetition)
		}
		if n := c.n[i]; n > 0 {
			l -= float32(float32(n) * c.frequency)
			l -= c.presence
		}
		logits[id] = l
	}
}
