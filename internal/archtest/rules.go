// Package archtest holds the project's shape as rules and checks the tree
// against them: who may import whom, which build tags there are, how long a
// function may be, and whether what the pages and comments say still exists.
//
// It reads source files only (go/parser): every operating system's and every
// tag's files at once, no build, no network. rules.go is the table to read and
// to change; tree.go reads, check.go compares. TestRulesHold is the check,
// TestBrokenTreesAreReported shows on made-up trees that each rule can fail.
package archtest

// A Rule says which of our packages a package may import. "" is the root
// façade, "*" everything, "x/*" every package below x. Besides these, every
// package may import internal/*; a package without a row of its own (a leaf, such as
// model/llama) may import its parent and what its parent may import, never a sibling.
type Rule struct {
	Pkg string
	May []string
	Why string // what it must not know, and what that buys
}

var rules = []Rule{
	{"batch", nil, "the vocabulary of one step: everybody speaks it, so it can know nobody"},
	{"tensor", nil, "formats and shapes, with the decoder that defines each format: below everything"},
	{"tokenizer", nil, "text and ids alone: testable against the reference library without a model"},
	{"hub", nil, "moves and keeps files; what is in them is the checkpoint's business"},
	{"web", nil, "static files; it speaks to the server by HTTP only"},

	{"checkpoint", []string{"tensor"}, "hostile files end here: bounds checks, no arithmetic, no model"},
	{"kvcache", []string{"batch"}, "block numbers and token ids, no bytes: the same for every device and format"},
	{"sampler", []string{"batch"}, "a row of logits in, a token out; no model, no text"},
	{"scheduler", []string{"kvcache", "batch"}, "decides and never computes: pure, so a simulator can replay it"},
	{"chat", []string{"tokenizer"}, "templates and trust of text; no engine"},
	{"grammar", []string{"tokenizer"}, "masks over ids; no engine"},

	{"backend", []string{"tensor", "batch"}, "a machine with kernels: rows and block tables, never a model or a policy"},
	{"model", []string{"backend", "checkpoint", "tensor", "batch"}, "sees an Input, never a queue, a policy or text"},
	{"runner", []string{"model", "backend", "tensor", "batch"}, "lays a step out flat; decides nothing"},
	{"spec", []string{"kvcache", "runner", "sampler", "batch"}, "proposes and verifies ids, with a draft model's K/V paged like the target's; who is scheduled is not its business"},
	{"engine", []string{"scheduler", "kvcache", "runner", "spec", "sampler", "batch"}, "ids in, ids out: no text, no HTTP, no files"},

	{"", []string{"engine", "tokenizer", "chat", "grammar", "model", "checkpoint", "hub", "batch", "runner", "backend", "spec",
		"sampler", "tensor", "backend/all", "model/all", "spec/all"},
		"the library façade wires text to the engine; it shows sampler.Sample and the pool's tensor.DType in its API"},
	{"server", []string{"engine", "tokenizer", "chat", "grammar", "batch", "sampler", "scheduler", "web", ""},
		"the only package that knows the wire's JSON; it reads the engine's typed errors and samples, never a model or a device"},
	{"convert", []string{"checkpoint", "tensor", "model", ""}, "files to files"},
	{"bench", []string{"*"}, "measures whatever it names"},
	{"explain", []string{"*"}, "counts in the real code of each technique"},
	{"cmd", []string{"*"}, "flags and wiring"},
	{"internal", []string{"internal/*"}, "imports nothing of ours but its siblings, so that everybody may import it"},
}

// An Edge is an import that the rows above do not give. A pattern is a path, "x/*" or "*".
type Edge struct{ From, To, Why string }

var exceptions = []Edge{
	{"model/*", "model/decoder", "an architecture is a Spec of the shared decoder"},
	{"model/all", "model/*", "the list of registered architectures"},
	{"backend/all", "backend/*", "the list of registered backends"},
	{"spec/all", "spec/*", "the list of registered proposers"},
	{"engine", "runner/tier", "hands the store to the block manager, asks it to look ahead and closes it"},
	{"", "runner/tier", "opens the store over the pool that it has made"},
	{"backend/cpu", "backend/cpu/*", "its kernels and its team, a folder each"},
	{"backend/cuda", "backend/cuda/*", "its driver and kernels, a folder each"},
	{"", "backend/cpu", "version names the CPU's kernels without opening a model"},
	{"backend/backendtest", "backend/ref", "the conformance suite compares with the oracle"},
}

// Tests may import all that their package reaches by the rules, and these.
var testExceptions = []Edge{
	{"*", "backend/ref", "the scalar oracle"},
	{"*", "backend/backendtest", "the conformance suite"},
	{"*", "backend/all", "every backend there is"},
	{"*", "model/all", "every architecture there is"},
	{"model", "runner", "a model is driven through the runner; that is how logits come out of it"},
	{"chat", "tokenizer", "the proof that user text never becomes a control token ends in ids"},
	{"tokenizer", "checkpoint", "a GGUF file's vocabulary is read as the product reads it"},
	{"model", "backend/cpu", "the goldens hold on the fast kernels too"},
	{"model", "backend/cpu/matmul", "names the instruction sets to force"},
	{"engine", "model/*", "one architecture is enough to step"},
	{"engine", "spec/mtp", "the proposer whose state is in the engine's own blocks"},
}

// A Ban holds along every path of imports, not only the direct one.
type Ban struct{ From, To, Why string }

var bans = []Ban{
	{"engine", "tokenizer", "the engine is ids only: stop strings and grammars come to it as batch interfaces"},
	{"engine", "chat", "the engine is ids only"},
	{"engine", "hub", "the engine opens no files and no connections"},
	{"engine", "net/http", "the engine knows no HTTP"},
	{"scheduler", "model", "policy is pure: it is tested by script, without weights"},
	{"scheduler", "backend", "policy is pure: it never touches a device"},
	{"scheduler", "tensor", "policy is pure: it counts tokens and blocks, not bytes"},
	{"scheduler", "time.Now", "the clock is an argument, so that a trace replays"},
	{"scheduler", "math/rand", "no decision by chance"},
	{"scheduler", "math/rand/v2", "no decision by chance"},
	{"scheduler", "sync", "one goroutine owns it"},
	{"kvcache", "tensor", "blocks are ids, not bytes"},
	{"kvcache", "time.Now", "eviction goes by order of use, not by time"},
	{"model", "kvcache", "a model sees an Input, not a policy"},
	{"model", "scheduler", "a model sees an Input, not a policy"},
	{"backend", "model", "a backend sees operations, not architectures"},
	{"tensor", "unsafe", "formats are read as bytes"},
}

// outsiders are packages that only some of ours may import directly (tests apart): a third-party
// module is a decision to be taken once (docs/dependencies.md says why each), and so is each dangerous corner of the standard library.
var outsiders = []struct {
	Import string // a package or, ending in "/...", it and all below it
	By     []string
}{
	{"github.com/spf13/cobra/...", []string{"cmd/*"}},
	{"github.com/spf13/pflag/...", []string{"cmd/*"}},
	{"github.com/vbauerster/mpb/...", []string{"cmd/*"}},
	{"golang.org/x/term/...", []string{"cmd/*"}},
	{"github.com/dlclark/regexp2/...", []string{"tokenizer"}},
	{"golang.org/x/text/...", []string{"tokenizer"}},
	{"golang.org/x/sys/...", []string{"internal/*", "hub", "backend/*"}},
	{"github.com/ebitengine/purego/...", []string{"backend/cuda", "backend/cuda/*"}},
	{"github.com/prometheus/client_golang/...", []string{"server", "server/*"}},

	{"unsafe", []string{"checkpoint" /* Sizeof only */, "internal/arena", "internal/simd", "internal/sysmem", "backend/cpu/*", "backend/cuda", "backend/cuda/*"}},
	{"os/exec", []string{"hub", "bench/peers"}},
	{"net/http", []string{"hub", "server", "server/*", "web", "bench/*", "cmd/*"}},
	{"testing", []string{"internal/datatest", "backend/backendtest"}},
	{"C", nil},
	{"sestina/internal/datatest", nil},
	{"sestina/internal/archtest", nil},
	{"plugin", nil},
	{"encoding/gob", nil},
}

// buildTags are all the tags there are besides operating systems and architectures.
var buildTags = []string{
	"purego",     // no assembly
	"checked",    // bounds checks in kernels
	"invariants", // the engine checks itself after every step
	"real",       // tests that need a real model's files
	"noembed",    // a binary without the embedded model
}

var platforms = []string{"linux", "darwin", "windows", "amd64", "arm64", "unix"}

// emptyNames say nothing about what is inside.
var emptyNames = []string{"utils", "util", "common", "types", "helpers", "misc", "base", "shared", "v2"}

const (
	maxFunc = 120 // lines of a function outside tests and generated files
	maxFile = 600 // lines of a file outside generated ones
)

// long lists what may be longer, with the reason: "file.go" or "file.go:Func".
var long = map[string]string{}
