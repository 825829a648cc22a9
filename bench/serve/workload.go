package serve

import (
	"math"
	"math/rand/v2"
	"strings"
)

// Request is one request of the plan.
type Request struct {
	Prompt    string
	PromptIDs []int32 // instead of Prompt, when not nil
	MaxTokens int
	Seed      uint64 // of the server's draws, sent when the temperature is not 0
}

// words are common enough to be one token each, with the space before, in most
// vocabularies; the server's usage says what a prompt really held.
var words = strings.Fields(`the of and to in is you that it he was for on are as with his they at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my than first
water been call who oil its now find long down day did get come made may part over new sound take only little work know place
year live me back give most very after thing our just name good sentence man think say great where help through much before
line right too mean old any same tell boy follow came want show also around form three small set put end does another well
large must big even such because turn here why ask went men read need land different home us move try kind hand picture again
change off play spell air away animal house point page letter mother answer found study still learn should world high`)

// requests plans one repetition: every repetition has fresh prompts.
func (c *Config) requests(rep int) []Request {
	outputs := c.outputLens(rep)
	lengths, text := c.rng(streamLengths, rep), c.rng(streamWords, rep)
	reqs := make([]Request, len(outputs))
	for i := range reqs {
		reqs[i] = Request{MaxTokens: outputs[i], Seed: text.Uint64() >> 12}
		c.fillPrompt(&reqs[i], text, between(lengths, c.InputLen, c.RangeRatio), rep*len(reqs)+i)
	}
	return reqs
}

// warmups are requests like the load's, with other prompts.
func (c *Config) warmups() []Request {
	lengths, text := c.rng(streamLengths, c.Reps), c.rng(streamWords, c.Reps)
	reqs := make([]Request, c.NumWarmups)
	for i := range reqs {
		reqs[i] = Request{MaxTokens: min(c.OutputLen, 16), Seed: text.Uint64() >> 12}
		if c.Prompts != nil { // the file's prompts stay unseen
			reqs[i].Prompt = randomText(text, 16)
			continue
		}
		c.fillPrompt(&reqs[i], text, between(lengths, c.InputLen, c.RangeRatio), 0)
	}
	return reqs
}

// fillPrompt makes the prompt of request number n, of length words or ids when random.
func (c *Config) fillPrompt(r *Request, rng *rand.Rand, length, n int) {
	switch {
	case c.Prompts != nil:
		r.Prompt = c.Prompts[n%len(c.Prompts)]
	case c.VocabSize > 0:
		r.PromptIDs = make([]int32, length)
		for i := range r.PromptIDs {
			r.PromptIDs[i] = int32(rng.IntN(c.VocabSize))
		}
	default:
		r.Prompt = randomText(rng, length)
	}
}

// outputLens are the answers' lengths: the mix in shuffled order, or random ones.
func (c *Config) outputLens(rep int) []int {
	rng := c.rng(streamMix, rep)
	lens := make([]int, 0, c.total())
	for _, p := range c.Mix {
		for range p.Count {
			lens = append(lens, p.OutputLen)
		}
	}
	if len(c.Mix) > 0 {
		rng.Shuffle(len(lens), func(i, j int) { lens[i], lens[j] = lens[j], lens[i] })
		return lens
	}
	for range c.NumPrompts {
		lens = append(lens, between(rng, c.OutputLen, c.RangeRatio))
	}
	return lens
}

// between draws uniformly from n·(1 ± ratio), at least 1.
func between(rng *rand.Rand, n int, ratio float64) int {
	low := max(int(math.Floor(float64(n)*(1-ratio))), 1)
	high := max(int(math.Ceil(float64(n)*(1+ratio))), low)
	return low + rng.IntN(high-low+1)
}

func randomText(rng *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[rng.IntN(len(words))])
	}
	return b.String()
}
