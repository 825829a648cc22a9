package server

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"sestina"
	"sestina/batch"
	"sestina/chat"
	"sestina/sampler"
)

// request is a generation as a client asked for it, checked field by field.
// What needs the model (ids in the vocabulary, what fits the context) is the
// engine's check.
type request struct {
	endpoint endpoint
	model    string

	messages      []chat.Message
	vars          map[string]any // chat_template_kwargs
	addGeneration bool
	prompts       []prompt
	addSpecial    bool
	echo          bool

	n             int
	maxTokens     int // 0 = what is left
	maxCompletion int // max_completion_tokens: the newer name, wins
	sampling      batch.SamplingParams
	seeded        bool
	dryLastN      int
	breakers      []string // nil = the default ones
	text          sestina.TextOptions
	priority      int
	cacheSalt     string
	id            string // of the reply, "" = one of ours

	stream          bool
	includeUsage    bool
	continuousUsage bool
	logprobs        bool
	topLogprobs     int
	namesAsIDs      bool
	returnIDs       bool
}

// prompt is text or, where text is nil, ids.
type prompt struct {
	text *string
	ids  []int32
}

// newRequest has the defaults of every field.
func newRequest(e endpoint, defaults batch.SamplingParams) *request {
	r := &request{endpoint: e, n: 1, sampling: defaults, addGeneration: true, addSpecial: true, dryLastN: -1}
	r.sampling.Logprobs = -1
	r.sampling.DRY.Base, r.sampling.DRY.AllowedLength = 1.75, 2
	r.sampling.XTC.Threshold = 0.1
	return r
}

// finish checks what concerns several fields.
func (r *request) finish() *apiError {
	switch {
	case r.endpoint == chatEndpoint && r.messages == nil:
		return badRequest("messages", "messages is missing")
	case r.endpoint == textEndpoint && r.prompts == nil:
		return badRequest("prompt", "prompt is missing")
	case r.topLogprobs > 0 && !r.logprobs:
		return badRequest("top_logprobs", "top_logprobs is %d but logprobs is not true", r.topLogprobs)
	case r.echo && r.logprobs:
		return badRequest("echo", "echo with logprobs needs the prompt's own logprobs, which are not supported by this server yet; leave one out")
	case (r.includeUsage || r.continuousUsage) && !r.stream:
		return badRequest("stream_options", "stream_options is there but stream is not true")
	}
	if r.maxCompletion > 0 {
		r.maxTokens = r.maxCompletion
	}
	if r.logprobs {
		r.sampling.Logprobs = r.topLogprobs
	}
	if !r.seeded {
		r.sampling.Seed = rand.Uint64N(1 << 53) // every JSON reader keeps it exact
	}
	d := &r.sampling.DRY
	switch {
	case r.dryLastN == 0 || d.Multiplier == 0: // llama.cpp's way to say off
		*d = batch.DRY{}
	case r.dryLastN > 0:
		d.LastN = r.dryLastN
	}
	return nil
}

func readPrompts(r *request, name string, v value) *apiError {
	switch v[0] {
	case '"':
		s := v.text()
		r.prompts = []prompt{{text: &s}}
		return nil
	case '[':
		return readPromptList(r, name, v)
	}
	return badRequest(name, "%s is %s, must be a string, a list of strings, a list of token ids or a list of such lists", name, v.kind())
}

func readPromptList(r *request, name string, v value) *apiError {
	first := skip(v, 1)
	if v[first] == ']' {
		return badRequest(name, "%s is an empty list", name)
	}
	kind := v[first:valueEnd(v, first)].kind()
	switch kind {
	case "a number":
		ids, err := readIDs(name, v)
		r.prompts = []prompt{{ids: ids}}
		return err
	case "a string", "an array":
		return v.array(name, maxPrompts, func(i int, v value) *apiError {
			at := fmt.Sprintf("%s[%d]", name, i)
			if kind == "a string" {
				s, err := v.str(at)
				r.prompts = append(r.prompts, prompt{text: &s})
				return err
			}
			ids, err := readIDs(at, v)
			r.prompts = append(r.prompts, prompt{ids: ids})
			return err
		})
	}
	return badRequest(name, "%s[0] is %s, must be a string, a token id or a list of token ids", name, kind)
}

// readIDs reads token ids; whether the vocabulary has them is the engine's check.
func readIDs(name string, v value) ([]int32, *apiError) {
	ids := []int32{}
	err := v.array(name, maxBody, func(i int, v value) *apiError {
		id, err := v.integer(name, 0, math.MaxInt32)
		ids = append(ids, int32(id))
		return err
	})
	return ids, err
}

// readNPredict: llama.cpp's clients send −1 for no limit.
func readNPredict(r *request, name string, v value) *apiError {
	n, err := v.integer(name, -1, math.MaxInt32)
	if err == nil && n == 0 {
		err = badRequest(name, "%s is 0, must be at least 1, or -1 for what is left", name)
	}
	if n > 0 {
		r.maxTokens = int(n)
	}
	return err
}

// readRequestID: the reply's id ends in it.
func readRequestID(r *request, name string, v value) *apiError {
	id, err := v.str(name)
	if err == nil && !plainID(id) {
		err = badRequest(name, "%s must have 1 to 128 letters, digits and any of -_.:", name)
	}
	r.id = id
	return err
}

func readStreamOptions(r *request, name string, v value) *apiError {
	return v.object(name, func(key string, v value) (err *apiError) {
		switch {
		case v.null():
		case key == "include_usage":
			r.includeUsage, err = v.boolean(name + "." + key)
		case key == "continuous_usage_stats":
			r.continuousUsage, err = v.boolean(name + "." + key)
		}
		return err
	})
}

func readStop(r *request, name string, v value) *apiError {
	add := func(name string, v value) *apiError {
		s, err := v.str(name)
		if err == nil && (s == "" || len(s) > maxStopBytes) {
			err = badRequest(name, "%s has %d bytes, must have 1 to %d", name, len(s), maxStopBytes)
		}
		r.text.Stop = append(r.text.Stop, s)
		return err
	}
	if v[0] == '"' {
		return add(name, v)
	}
	return v.array(name, maxStops, func(i int, v value) *apiError { return add(fmt.Sprintf("%s[%d]", name, i), v) })
}

func readStopIDs(r *request, name string, v value) *apiError {
	return v.array(name, sampler.MaxStopIDs, func(i int, v value) *apiError {
		id, err := v.integer(name, 0, math.MaxInt32)
		r.sampling.StopIDs = append(r.sampling.StopIDs, int32(id))
		return err
	})
}

func readSkipSpecial(r *request, name string, v value) *apiError {
	skip, err := v.boolean(name)
	r.text.Special = !skip
	return err
}

func readSeed(r *request, name string, v value) *apiError {
	seed, err := v.integer(name, -1, math.MaxInt64)
	r.seeded, r.sampling.Seed = seed >= 0, uint64(seed)
	return err
}

// readTopP: 0 keeps the likeliest token alone, as close as the sampler (where 0 is off) can say it.
func readTopP(r *request, name string, v value) *apiError {
	p, err := v.float(name, 0, 1)
	r.sampling.TopP = max(float32(p), 1e-9)
	return err
}

func readTopK(r *request, name string, v value) *apiError {
	k, err := v.integer(name, -1, math.MaxInt32)
	r.sampling.TopK = int(max(k, 0))
	return err
}

func readLogitBias(r *request, name string, v value) *apiError {
	r.sampling.LogitBias = nil
	return v.object(name, func(key string, v value) *apiError {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 || strconv.FormatInt(id, 10) != key {
			return badRequest(name, "%s: %s is not a token id", name, quoteName(key))
		}
		if len(r.sampling.LogitBias) == sampler.MaxLogitBias {
			return badRequest(name, "%s has more than %d entries", name, sampler.MaxLogitBias)
		}
		bias, bad := v.float(name, -100, 100)
		r.sampling.LogitBias = append(r.sampling.LogitBias, batch.LogitBias{ID: int32(id), Bias: float32(bias)})
		return bad
	})
}

func readBreakers(r *request, name string, v value) *apiError {
	r.breakers = []string{}
	return v.array(name, maxBreakers, func(i int, v value) *apiError {
		s, err := v.str(fmt.Sprintf("%s[%d]", name, i))
		if err == nil && (s == "" || len(s) > maxBreakerText) {
			err = badRequest(name, "%s[%d] has %d bytes, must have 1 to %d", name, i, len(s), maxBreakerText)
		}
		r.breakers = append(r.breakers, s)
		return err
	})
}

func readTextLogprobs(r *request, name string, v value) *apiError {
	if v[0] == 'f' { // some clients send the chat form's false
		return nil
	}
	n, err := v.integer(name, 0, sampler.MaxLogprobs)
	r.logprobs, r.topLogprobs = true, int(n)
	return err
}

func readReasoningEffort(r *request, name string, v value) *apiError {
	s, err := v.str(name)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"none", "minimal", "low", "medium", "high", "xhigh"}, s) {
		return badRequest(name, "%s is %s, must be none, minimal, low, medium, high or xhigh", name, quoteName(s))
	}
	r.setVar(name, s)
	return nil
}

func (r *request) setVar(name string, v any) {
	if r.vars == nil {
		r.vars = map[string]any{}
	}
	r.vars[name] = v
}

// readKwargs takes plain values only: a template may see them as its variables
// and as nothing else. Names the template owns are refused when it renders.
func readKwargs(r *request, name string, v value) *apiError {
	count := 0
	return v.object(name, func(key string, v value) *apiError {
		at := name + "." + clip(key)
		if count++; count > maxKwargs {
			return badRequest(name, "%s has more than %d entries", name, maxKwargs)
		}
		if !plainName(key) {
			return badRequest(name, "%s: %s is not a variable name of lower-case letters, digits and _", name, quoteName(key))
		}
		if slices.Contains(reservedKwargs, key) {
			return badRequest(name, "%s: %s is not for the request to set", name, key)
		}
		switch v.kind() {
		case "a string":
			s := v.text()
			if len(s) > maxKwargBytes {
				return badRequest(name, "%s has %d bytes, at most %d are allowed", at, len(s), maxKwargBytes)
			}
			r.setVar(key, s)
		case "a boolean":
			r.setVar(key, v[0] == 't')
		case "a number":
			f, err := v.float(at, -math.MaxFloat64, math.MaxFloat64)
			if err != nil {
				return err
			}
			r.setVar(key, f)
			if n, err := v.integer(at, math.MinInt64, math.MaxInt64); err == nil {
				r.setVar(key, n)
			}
		case "null":
			r.setVar(key, nil)
		default:
			return badRequest(name, "%s is %s, must be a string, a number or a boolean", at, v.kind())
		}
		return nil
	})
}

// reservedKwargs are the arguments of a template's call, not variables of it.
var reservedKwargs = []string{"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token",
	"tokenize", "chat_template", "conversation", "padding", "truncation", "max_length", "return_tensors", "return_dict", "loop"}

func plainName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz_"
	return s != "" && len(s) <= 64 && strings.IndexByte(letters, s[0]) >= 0 && strings.Trim(s, letters+"0123456789") == ""
}
