// Package sampler turns a row of logits into a distribution and the
// distribution into a token.
//
// # The order of processors, and why
//
// The order is fixed: a request chooses values, never the order, so one set of
// parameters means one distribution everywhere.
//
//  1. Bans (min_tokens) and logit bias: what the request says about single ids,
//     independent of text. First, so that all that follows sees a banned id as
//     impossible. A bias of -100 bans outright.
//  2. Repetition, frequency and presence penalties: what has been said, by
//     count. Repetition scales, so it comes before the two that subtract
//     (as vLLM and Hugging Face do).
//  3. DRY: what has been said, by sequence. It subtracts as well, and a sum has
//     no order.
//  4. Temperature. Before truncation (vLLM, Hugging Face; llama.cpp's default
//     puts it last): "top_p 0.9" then means 0.9 of the distribution that is
//     drawn from. Steps 1 to 3 precede it, so that a bias of 1 weighs e^(1/T).
//     Greedy leaves here: temperature 0 (below 1e-5) is the one-point
//     distribution on the largest logit.
//  5. Top-k, then typical, then top-p, then min-p, each on the renormalised
//     survivors of the one before: from the crudest, which asks only about rank
//     and spares the others the long tail, to the one that asks about the
//     likeliest survivor.
//  6. XTC last, as it removes the top and not the tail: before the others it
//     would change what "top" means to them.
//  7. The draw.
//
// Ties go to the lowest id everywhere. A draw walks the survivors by ascending
// id, so the token is a function of the distribution and one uniform number.
//
// # Randomness
//
// The number of (seed, choice, output index, lane) comes from a counter-based
// generator, Philox4x32-10; there is no generator state to save, replay or shift.
// Preemption, batching, chunking and drafts cannot change a seeded output. A
// proposer's one-hot drafts are verified by drawing the target's own token at
// each index and accepting while it equals the draft:
//
//	for i, draft := range drafts {
//		t, err := s.Sample(rows[i], output+i)
//		…
//		s.Commit(t.Token)
//		if t.Token != draft {
//			break // recovered: the rows after this one are void
//		}
//	}
//
// which is exact for every setting, penalties included, because each row is
// drawn after the commits before it and rejected drafts are never committed.
//
// # Cost
//
// Nothing sorts the vocabulary. Top-k finds a lower bound of the k-th largest
// logit from block maxima, collects the few above it and selects among them;
// top-p collects by falling thresholds until the mass suffices; see select.go
// and truncate.go. Typical is the dear one: a logarithm a token, unless top-k
// comes before it. Penalties touch the tokens seen, not the vocabulary.
// Exponentials, maxima and collecting are SIMD (internal/simd), with the same
// bits on every machine. Steady state allocates nothing: working memory comes
// from a pool, one set a worker.
//
// The tests hold every processor to a slow float64 reference, the generator to
// its published vectors, and the draws to a chi-square test that a sampler with
// a 10 % bias fails.
package sampler
