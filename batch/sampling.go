package batch

// SamplingParams says how a token is drawn from a row of logits. The zero value
// is greedy with every processor off; [DefaultSampling] is the API's default.
//
// Order (fixed, see package sampler): logit bias → repetition, frequency and
// presence penalties → DRY → temperature → top-k → typical → top-p → min-p →
// XTC → draw.
type SamplingParams struct {
	Temperature float32 // ≥ 0; 0 is greedy: the lowest id among the largest logits
	TopK        int     // keep the k largest; 0 = off
	TopP        float32 // nucleus in (0, 1]; 0 or 1 = off
	MinP        float32 // keep p ≥ MinP·max p; [0, 1]; 0 = off
	TypicalP    float32 // locally typical mass in (0, 1]; 0 or 1 = off

	RepetitionPenalty float32 // > 0; 0 or 1 = off (over prompt and output, CTRL paper)
	PresencePenalty   float32 // [-2, 2] over output tokens
	FrequencyPenalty  float32 // [-2, 2] over output tokens
	DRY               DRY
	XTC               XTC
	LogitBias         []LogitBias // at most one entry per id

	Seed      uint64 // with (choice, output index, lane): the draw's only randomness
	Logprobs  int    // -1 = none; 0…20: the drawn token's and that many top ones
	MinTokens int    // end-of-generation and stop ids are masked before that many outputs
	StopIDs   []int32
	IgnoreEOS bool // run on past the model's own end-of-generation ids
}

// LogitBias is added to one id's logit; -100 or less in effect bans it.
type LogitBias struct {
	ID   int32
	Bias float32
}

// DRY penalises tokens that would continue a repetition ("don't repeat
// yourself"): Multiplier·Base^(match length − AllowedLength) for matches of at
// least AllowedLength. Multiplier 0 = off.
type DRY struct {
	Multiplier    float32
	Base          float32 // ≥ 1, usually 1.75
	AllowedLength int     // usually 2
	LastN         int     // window of tokens looked back at; 0 = everything
	Breakers      []int32 // ids that end a match
}

// XTC ("exclude top choices") removes, with Probability, all but the least
// likely of the tokens whose probability is at least Threshold. Probability 0 = off.
type XTC struct {
	Probability float32
	Threshold   float32
}

// DefaultSampling is what a request without settings gets when the model ships none.
func DefaultSampling() SamplingParams {
	return SamplingParams{Temperature: 1, Logprobs: -1}
}

// Greedy is temperature 0 without logprobs.
func Greedy() SamplingParams { return SamplingParams{Logprobs: -1} }
