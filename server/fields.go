package server

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"sestina/sampler"
)

// The table of request fields: what a client may send, of which type, in which
// range. A field is either built (it has a reader), or known and not built (a
// value that asks for it is refused by name; its off values pass), or known and
// of no effect. What is not in the table is ignored and logged once.

// Caps of a request: what one client may make everybody pay for.
const (
	maxBody        = 8 << 20
	maxPrompts     = 64
	maxMessages    = 1024
	maxParts       = 1024 // content parts of a message
	maxStops       = 4
	maxStopBytes   = 256
	maxKwargs      = 32
	maxKwargBytes  = 4096
	maxSaltBytes   = 256
	maxNameBytes   = 256
	maxBreakers    = 16
	maxBreakerText = 64
)

type endpoint uint8

const (
	chatEndpoint endpoint = 1 << iota
	textEndpoint
	both = chatEndpoint | textEndpoint
)

type field struct {
	name string
	in   endpoint
	reader
	off []string // JSON values of a field that is not built which ask for nothing
}

// reader reads a value into a request. The zero reader is of a field not built.
type reader struct {
	what string // type and range, for the manual
	read func(r *request, name string, v value) *apiError
}

var fields = []field{
	{name: "model", in: both, reader: text(maxNameBytes, func(r *request) *string { return &r.model })},
	{name: "messages", in: chatEndpoint, reader: reader{"array of messages, 1…1024", readMessages}},
	{name: "prompt", in: textEndpoint, reader: reader{"string, [string], [id] or [[id]], at most 64", readPrompts}},
	{name: "stream", in: both, reader: boolean(func(r *request) *bool { return &r.stream })},
	{name: "stream_options", in: both, reader: reader{"{include_usage, continuous_usage_stats}", readStreamOptions}},
	{name: "n", in: both, reader: integer(1, 8, func(r *request) *int { return &r.n })},
	{name: "max_completion_tokens", in: chatEndpoint, reader: integer(1, math.MaxInt32, func(r *request) *int { return &r.maxCompletion })},
	{name: "max_tokens", in: both, reader: integer(1, math.MaxInt32, func(r *request) *int { return &r.maxTokens })},
	{name: "n_predict", in: both, reader: reader{"integer ≥ 1; −1 = absent (llama.cpp's max_tokens)", readNPredict}},
	{name: "min_tokens", in: both, reader: integer(0, math.MaxInt32, func(r *request) *int { return &r.sampling.MinTokens })},
	{name: "ignore_eos", in: both, reader: boolean(func(r *request) *bool { return &r.sampling.IgnoreEOS })},
	{name: "stop", in: both, reader: reader{"string or [string], at most 4 of 1…256 bytes", readStop}},
	{name: "stop_token_ids", in: both, reader: reader{"[id], at most 256", readStopIDs}},
	{name: "include_stop_str_in_output", in: both, reader: boolean(func(r *request) *bool { return &r.text.IncludeStop })},
	{name: "skip_special_tokens", in: both, reader: reader{"boolean", readSkipSpecial}},
	{name: "seed", in: both, reader: reader{"integer 0…2⁶³−1; −1 = random", readSeed}},

	{name: "temperature", in: both, reader: number(0, 100, func(r *request) *float32 { return &r.sampling.Temperature })},
	{name: "top_p", in: both, reader: reader{"number 0…1", readTopP}},
	{name: "top_k", in: both, reader: reader{"integer; 0 or −1 = off", readTopK}},
	{name: "min_p", in: both, reader: number(0, 1, func(r *request) *float32 { return &r.sampling.MinP })},
	{name: "typical_p", in: both, reader: number(0, 1, func(r *request) *float32 { return &r.sampling.TypicalP })},
	{name: "repetition_penalty", in: both, reader: number(0.01, 100, func(r *request) *float32 { return &r.sampling.RepetitionPenalty })},
	{name: "repeat_penalty", in: both, reader: number(0.01, 100, func(r *request) *float32 { return &r.sampling.RepetitionPenalty })},
	{name: "presence_penalty", in: both, reader: number(-2, 2, func(r *request) *float32 { return &r.sampling.PresencePenalty })},
	{name: "frequency_penalty", in: both, reader: number(-2, 2, func(r *request) *float32 { return &r.sampling.FrequencyPenalty })},
	{name: "logit_bias", in: both, reader: reader{"{id: −100…100}, at most 1024", readLogitBias}},
	{name: "dry_multiplier", in: both, reader: number(0, 100, func(r *request) *float32 { return &r.sampling.DRY.Multiplier })},
	{name: "dry_base", in: both, reader: number(1, 100, func(r *request) *float32 { return &r.sampling.DRY.Base })},
	{name: "dry_allowed_length", in: both, reader: integer(1, math.MaxInt32, func(r *request) *int { return &r.sampling.DRY.AllowedLength })},
	{name: "dry_penalty_last_n", in: both, reader: integer(-1, math.MaxInt32, func(r *request) *int { return &r.dryLastN })},
	{name: "dry_sequence_breakers", in: both, reader: reader{"[string], at most 16 of 1…64 bytes", readBreakers}},
	{name: "xtc_probability", in: both, reader: number(0, 1, func(r *request) *float32 { return &r.sampling.XTC.Probability })},
	{name: "xtc_threshold", in: both, reader: number(0, 1, func(r *request) *float32 { return &r.sampling.XTC.Threshold })},

	{name: "logprobs", in: chatEndpoint, reader: boolean(func(r *request) *bool { return &r.logprobs })},
	{name: "top_logprobs", in: chatEndpoint, reader: integer(0, sampler.MaxLogprobs, func(r *request) *int { return &r.topLogprobs })},
	{name: "logprobs", in: textEndpoint, reader: reader{fmt.Sprintf("integer 0…%d", sampler.MaxLogprobs), readTextLogprobs}},
	{name: "return_tokens_as_token_ids", in: both, reader: boolean(func(r *request) *bool { return &r.namesAsIDs })},
	{name: "return_token_ids", in: both, reader: boolean(func(r *request) *bool { return &r.returnIDs })},
	{name: "echo", in: textEndpoint, reader: boolean(func(r *request) *bool { return &r.echo })},
	{name: "add_special_tokens", in: textEndpoint, reader: boolean(func(r *request) *bool { return &r.addSpecial })},
	{name: "add_generation_prompt", in: chatEndpoint, reader: boolean(func(r *request) *bool { return &r.addGeneration })},
	{name: "chat_template_kwargs", in: chatEndpoint, reader: reader{"{name: string, number or boolean}, at most 32", readKwargs}},
	{name: "reasoning_effort", in: chatEndpoint, reader: reader{"string, given to the chat template", readReasoningEffort}},
	{name: "priority", in: both, reader: integer(math.MinInt32, math.MaxInt32, func(r *request) *int { return &r.priority })},
	{name: "cache_salt", in: both, reader: text(maxSaltBytes, func(r *request) *string { return &r.cacheSalt })},
	{name: "request_id", in: both, reader: reader{"string of letters, digits and -_.:, at most 128", readRequestID}},

	// Known, not built.
	{name: "tools", in: chatEndpoint, off: []string{"[]"}},
	{name: "tool_choice", in: chatEndpoint, off: []string{`"none"`, `"auto"`}},
	{name: "functions", in: chatEndpoint, off: []string{"[]"}},
	{name: "function_call", in: chatEndpoint, off: []string{`"none"`, `"auto"`}},
	{name: "response_format", in: both, off: []string{`{"type":"text"}`}},
	{name: "structured_outputs", in: both},
	{name: "guided_json", in: both},
	{name: "guided_regex", in: both},
	{name: "guided_choice", in: both},
	{name: "guided_grammar", in: both},
	{name: "grammar", in: both, off: []string{`""`}},
	{name: "json_schema", in: both, off: []string{`{}`}},
	{name: "continue_final_message", in: chatEndpoint, off: []string{"false"}},
	{name: "echo", in: chatEndpoint, off: []string{"false"}},
	{name: "add_special_tokens", in: chatEndpoint, off: []string{"false"}},
	{name: "chat_template", in: chatEndpoint},
	{name: "documents", in: chatEndpoint, off: []string{"[]"}},
	{name: "mm_processor_kwargs", in: chatEndpoint},
	{name: "audio", in: chatEndpoint},
	{name: "modalities", in: chatEndpoint, off: []string{`["text"]`}},
	{name: "prediction", in: chatEndpoint},
	{name: "web_search_options", in: chatEndpoint},
	{name: "thinking_token_budget", in: chatEndpoint},
	{name: "suffix", in: textEndpoint, off: []string{`""`}},
	{name: "best_of", in: textEndpoint, off: []string{"1"}},
	{name: "prompt_embeds", in: textEndpoint},
	{name: "use_beam_search", in: both, off: []string{"false"}},
	{name: "length_penalty", in: both, off: []string{"1", "1.0"}},
	{name: "prompt_logprobs", in: both, off: []string{"0"}},
	{name: "allowed_token_ids", in: both},
	{name: "bad_words", in: both, off: []string{"[]"}},
	{name: "logits_processors", in: both, off: []string{"[]"}},
	{name: "truncate_prompt_tokens", in: both, off: []string{"0"}},
	{name: "repetition_detection", in: both},
	{name: "repeat_last_n", in: both, off: []string{"-1"}},
	{name: "mirostat", in: both, off: []string{"0"}},
	{name: "dynatemp_range", in: both, off: []string{"0", "0.0"}},
	{name: "top_n_sigma", in: both, off: []string{"-1", "-1.0"}},
	{name: "samplers", in: both},
	{name: "lora", in: both, off: []string{"[]"}},
	{name: "kv_transfer_params", in: both, off: []string{"{}"}},
	{name: "vllm_xargs", in: both, off: []string{"{}"}},
	{name: "stream_interval", in: both, off: []string{"1"}},
	{name: "n_cmpl", in: both, off: []string{"1"}},
	{name: "n_keep", in: both, off: []string{"0"}},
	{name: "n_probs", in: both, off: []string{"0"}},
	{name: "min_keep", in: both, off: []string{"0"}},
	{name: "id_slot", in: both, off: []string{"-1"}},
	{name: "t_max_predict_ms", in: both, off: []string{"-1", "0"}},
	{name: "timings_per_token", in: both, off: []string{"false"}},
	{name: "return_progress", in: both, off: []string{"false"}},
	{name: "return_tokens", in: both, off: []string{"false"}},
	{name: "post_sampling_probs", in: both, off: []string{"false"}},
	{name: "response_fields", in: both, off: []string{"[]"}},

	// Known, of no effect on an answer here.
	{name: "user", in: both, reader: ignored}, {name: "metadata", in: both, reader: ignored}, {name: "store", in: both, reader: ignored},
	{name: "service_tier", in: both, reader: ignored}, {name: "safety_identifier", in: both, reader: ignored},
	{name: "prompt_cache_key", in: both, reader: ignored}, {name: "cache_prompt", in: both, reader: ignored},
	{name: "parallel_tool_calls", in: both, reader: ignored}, {name: "include_reasoning", in: both, reader: ignored},
	{name: "spaces_between_special_tokens", in: both, reader: ignored}, {name: "verbosity", in: both, reader: ignored},
}

var ignored = reader{"ignored", func(*request, string, value) *apiError { return nil }}

// fieldIndex finds a field by endpoint and name.
var fieldIndex = func() map[endpoint]map[string]*field {
	index := map[endpoint]map[string]*field{chatEndpoint: {}, textEndpoint: {}}
	for i := range fields {
		for e, names := range index {
			if fields[i].in&e != 0 {
				names[fields[i].name] = &fields[i]
			}
		}
	}
	return index
}()

// readFields reads a body into r. unknown is called for each field that is not in the table.
func readFields(r *request, body value, unknown func(name string)) *apiError {
	index := fieldIndex[r.endpoint]
	return body.object("body", func(name string, v value) *apiError {
		if f := index[name]; f != nil {
			return f.apply(r, v)
		}
		unknown(name)
		return nil
	})
}

// apply reads a value, or refuses one that asks for what is not built. Null asks for nothing.
func (f *field) apply(r *request, v value) *apiError {
	switch {
	case v.null():
		return nil
	case f.read != nil:
		return f.read(r, f.name, v)
	case slices.Contains(f.off, compact(v)):
		return nil
	}
	return notBuilt(f.name)
}

// compact is the value without blanks, to compare with an off value; long ones are none.
func compact(v value) string {
	if len(v) > 64 {
		return ""
	}
	return strings.Join(strings.Fields(string(v)), "")
}

// Readers of plain values.

func boolean(dst func(*request) *bool) reader {
	return reader{"boolean", func(r *request, name string, v value) *apiError {
		b, err := v.boolean(name)
		*dst(r) = b
		return err
	}}
}

func integer(lo, hi int64, dst func(*request) *int) reader {
	what := fmt.Sprintf("integer %d…%d", lo, hi)
	if hi == math.MaxInt32 {
		what = fmt.Sprintf("integer ≥ %d", lo)
	}
	return reader{what, func(r *request, name string, v value) *apiError {
		n, err := v.integer(name, lo, hi)
		*dst(r) = int(n)
		return err
	}}
}

func number(lo, hi float64, dst func(*request) *float32) reader {
	return reader{fmt.Sprintf("number %v…%v", lo, hi), func(r *request, name string, v value) *apiError {
		f, err := v.float(name, lo, hi)
		*dst(r) = float32(f)
		return err
	}}
}

func text(most int, dst func(*request) *string) reader {
	return reader{fmt.Sprintf("string, at most %d bytes", most), func(r *request, name string, v value) *apiError {
		s, err := v.str(name)
		if err == nil && len(s) > most {
			err = badRequest(name, "%s has %d bytes, at most %d are allowed", name, len(s), most)
		}
		*dst(r) = s
		return err
	}}
}
