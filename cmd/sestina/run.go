package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sestina"
	"sestina/backend/cpu/attention"
	"sestina/chat"
)

func randomSeed() uint64 { return rand.Uint64() }

// runFlags are the flags of run.
type runFlags struct {
	modelFlags
	samplingFlags
	ids    string
	system string
	raw    bool
	show   bool
	more   bool
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [-m MODEL] [PROMPT]",
		Short: "Answer a prompt, or chat on a terminal",
		Long: `Answer a prompt through the model's chat template and stream the answer to stdout.
Text piped to stdin is appended to the prompt. Without a prompt, on a terminal, run is a chat.`,
		Example: `  sestina run "Why is the sky blue?"
  cat main.go | sestina run --temperature 0 "Explain this file."
  sestina run -m model.gguf --ids 1,2,3 --max-tokens 8 --temperature 0 --output json`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.ids, "ids", "", "a prompt of token ids (1,2,3) instead of text; no template")
	fs.StringVar(&f.system, "system", "", "system message")
	fs.BoolVar(&f.raw, "raw", false, "continue the prompt as it is, without the chat template")
	fs.BoolVar(&f.show, "show-special", false, "show special tokens in the answer")
	fs.BoolVar(&f.more, "verbose", false, "say how many draft tokens were accepted; on a terminal, colour them and the tokens drawn in place of rejected ones")
	f.registerSampling(fs)
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command, args []string) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	if cmd.Flags().Changed("ids") && len(args) > 0 {
		return usagef(cmd, "give a prompt or --ids, not both")
	}
	if f.maxToks < 0 {
		return usagef(cmd, "--max-tokens is %d; it must be at least 1 (or 0 for what the context has left)", f.maxToks)
	}
	prompt, err := f.prompt(cmd.Context(), args)
	if err != nil {
		return err
	}
	interactive := prompt == "" && f.ids == "" && !cmd.Flags().Changed("ids")
	if interactive && (!term.IsTerminal(int(os.Stdin.Fd())) || len(args) > 0) {
		return usagef(cmd, "the prompt is empty: write it as an argument or pipe it in")
	}
	var ids []int32
	if cmd.Flags().Changed("ids") {
		if ids, err = idList(cmd, f.ids); err != nil {
			return err
		}
	}
	if f.opt.MaxNumSeqs == 0 {
		f.opt.MaxNumSeqs = 1
	}
	llm, err := f.open(cmd.Context())
	if err != nil {
		return err
	}
	defer llm.Close()
	opt := sestina.GenerateOptions{MaxTokens: f.maxToks, Stop: f.stop, Special: f.show}
	params, err := f.apply(cmd, llm.Defaults)
	if err != nil {
		return err
	}
	opt.Sampling = &params
	if interactive {
		return f.chat(cmd.Context(), llm, opt)
	}
	if ids == nil {
		if ids, err = f.encode(llm, prompt); err != nil {
			return err
		}
	}
	return f.answer(cmd.Context(), llm, ids, opt)
}

// prompt is the arguments joined, with piped stdin behind them.
func (f *runFlags) prompt(ctx context.Context, args []string) (string, error) {
	prompt := strings.Join(args, " ")
	info, err := os.Stdin.Stat()
	if f.ids != "" || err != nil || !(info.Mode()&os.ModeNamedPipe != 0 || info.Mode().IsRegular()) {
		return prompt, nil
	}
	piped, err := readStdin(ctx, 8<<20)
	if err != nil || prompt == "" || piped == "" {
		return prompt + piped, err
	}
	return prompt + "\n\n" + piped, nil
}

// encode is the prompt as ids: through the chat template, or raw.
func (f *runFlags) encode(llm *sestina.LLM, prompt string) ([]int32, error) {
	if f.raw || llm.Template == nil {
		if f.system != "" {
			return nil, fmt.Errorf("--system needs a chat template; the model has none, or --raw was given")
		}
		return llm.Encode(prompt)
	}
	return llm.ChatIDs(chat.Input{Messages: f.messages(prompt), AddGenerationPrompt: true})
}

func (f *runFlags) messages(prompt string) []chat.Message {
	var m []chat.Message
	if f.system != "" {
		m = append(m, chat.Message{Role: "system", Content: f.system})
	}
	return append(m, chat.Message{Role: "user", Content: prompt})
}

// open loads the model with progress on stderr and says what is in use.
func (f *modelFlags) open(ctx context.Context) (*sestina.LLM, error) {
	bar := newProgress()
	f.opt.Pull.Progress = bar
	f.opt.ModelProgress = bar.load
	start := time.Now()
	llm, err := sestina.Open(ctx, f.model, f.opt)
	bar.stop()
	if err != nil {
		return nil, err
	}
	i := llm.Info
	groups := llm.Pool.Groups()
	if groups != "" {
		groups = " in " + groups
	}
	note("model %s: %s, %.1fM parameters, %.1f MiB · %s · KV %s: %d tokens in %d blocks of %d%s, %.1f MiB · loaded in %.2f s",
		llm.Name, i.Arch, float64(i.Params)/1e6, float64(i.ResidentBytes)/(1<<20), llm.Describe,
		llm.Pool.KVDType(), llm.Pool.Tokens(), llm.Pool.Blocks, llm.Pool.BlockSize, groups, float64(llm.Pool.Bytes)/(1<<20), time.Since(start).Seconds())
	if n := llm.Pool.BlockSize; n%attention.Tile != 0 {
		note("--block-size %d is no multiple of %d: attention copies K and V before it reads them, the same answers later", n, attention.Tile)
	}
	return llm, nil
}

// colours reports whether what was drafted is to be coloured, and says how.
func (f *runFlags) colours() bool {
	on := f.more && f.output == "text" && term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	if on {
		note("%saccepted drafts%s, %srecovered tokens%s, all others", green, reset, yellow, reset)
	}
	return on
}

// answer streams one answer, or prints it as one JSON object.
func (f *runFlags) answer(ctx context.Context, llm *sestina.LLM, ids []int32, opt sestina.GenerateOptions) error {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	doc := runDocument{Schema: "sestina.run/1", TokenIDs: []int32{}}
	var text strings.Builder
	var paint *painter
	if f.colours() {
		paint = newPainter(llm, f.show)
	}
	for d, err := range llm.GenerateIDs(ctx, ids, opt) {
		if err != nil {
			return err
		}
		if f.output == "text" {
			fmt.Fprint(out, paint.paint(&d))
			out.Flush()
		}
		text.WriteString(d.Text)
		for _, t := range d.Tokens {
			doc.TokenIDs = append(doc.TokenIDs, t.Token)
		}
		if d.Result != nil {
			doc.fill(d.Result)
		}
	}
	doc.Text = text.String()
	if f.output == "json" {
		if err := json.NewEncoder(out).Encode(doc); err != nil {
			return err
		}
	} else if !strings.HasSuffix(doc.Text, "\n") {
		fmt.Fprintln(out)
	}
	out.Flush()
	note("%s", doc.summary())
	if f.more {
		note("%s", doc.speculation())
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// runDocument is the last line of `run --output json`.
type runDocument struct {
	Schema       string  `json:"schema"`
	TokenIDs     []int32 `json:"token_ids"`
	Text         string  `json:"text"`
	FinishReason string  `json:"finish_reason"`
	Usage        struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
		CachedTokens     int `json:"cached_tokens"`
		AcceptedTokens   int `json:"accepted_prediction_tokens"`
		RejectedTokens   int `json:"rejected_prediction_tokens"`
	} `json:"usage"`
	Timings struct {
		TTFT            float64 `json:"ttft_ms"`
		TPOT            float64 `json:"tpot_ms"`
		PromptPerSecond float64 `json:"prompt_per_second"`
		OutputPerSecond float64 `json:"predicted_per_second"`
	} `json:"timings"`
	Seed uint64 `json:"seed"`
}

func (d *runDocument) fill(r *sestina.Result) {
	d.FinishReason, d.Seed = r.FinishReason, r.Seed
	u, t := &d.Usage, &d.Timings
	u.PromptTokens, u.CompletionTokens, u.TotalTokens, u.CachedTokens = r.PromptTokens, r.OutputTokens, r.PromptTokens+r.OutputTokens, r.CachedTokens
	u.AcceptedTokens, u.RejectedTokens = r.Accepted, r.Drafted-r.Accepted
	t.TTFT, t.TPOT = ms(r.PromptTime), ms(r.TPOT())
	if r.PromptTime > 0 {
		t.PromptPerSecond = float64(r.PromptTokens-r.CachedTokens) / r.PromptTime.Seconds()
	}
	if r.OutputTime > 0 {
		t.OutputPerSecond = float64(r.OutputTokens-1) / r.OutputTime.Seconds()
	}
}

func (d *runDocument) summary() string {
	return fmt.Sprintf("%d prompt tokens, TTFT %.0f ms (%.0f tok/s) · %d output tokens at %.1f tok/s (TPOT %.2f ms) · %s",
		d.Usage.PromptTokens, d.Timings.TTFT, d.Timings.PromptPerSecond, d.Usage.CompletionTokens, d.Timings.OutputPerSecond, d.Timings.TPOT, d.FinishReason)
}

// speculation says what drafting did for the answer. Every step after the
// first token commits one token and the drafts that were accepted.
func (d *runDocument) speculation() string {
	accepted, drafted := d.Usage.AcceptedTokens, d.Usage.AcceptedTokens+d.Usage.RejectedTokens
	if drafted == 0 {
		return "speculation: nothing was drafted"
	}
	decoded := max(d.Usage.CompletionTokens-1, accepted)
	return fmt.Sprintf("speculation: %d of %d draft tokens accepted (%.0f %%), %.2f tokens per pass",
		accepted, drafted, 100*float64(accepted)/float64(drafted), float64(decoded)/float64(max(1, decoded-accepted)))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
