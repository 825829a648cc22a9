package sestina_test

import (
	"context"
	"fmt"

	"sestina"
	"sestina/batch"
	"sestina/chat"
)

// The model of the examples is random, so they print what does not depend on it.

func ExampleOpen() {
	llm, err := sestina.Open(context.Background(), "testdata/tiny.gguf", sestina.Options{Threads: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer llm.Close()
	fmt.Println(llm.Info.Arch, llm.Info.Layers, "layers,", llm.Info.Heads, "query heads in", llm.Info.KVHeads, "groups")
	// Output: llama 2 layers, 4 query heads in 2 groups
}

func ExampleLLM_Generate() {
	ctx := context.Background()
	llm, err := sestina.Open(ctx, "testdata/tiny.gguf", sestina.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer llm.Close()
	params := batch.Greedy()
	params.IgnoreEOS = true
	for delta, err := range llm.Generate(ctx, "hello world", sestina.GenerateOptions{Sampling: &params, MaxTokens: 16}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		// fmt.Print(delta.Text) would stream the answer.
		if r := delta.Result; r != nil {
			fmt.Println(r.PromptTokens, "prompt tokens,", r.OutputTokens, "output tokens,", r.FinishReason)
		}
	}
	// Output: 3 prompt tokens, 16 output tokens, length
}

func ExampleLLM_Chat() {
	ctx := context.Background()
	llm, err := sestina.Open(ctx, "testdata/tiny.gguf", sestina.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer llm.Close()
	conversation := []chat.Message{
		{Role: "system", Content: "Answer briefly."},
		{Role: "user", Content: "Why is the sky blue?"},
	}
	for delta, err := range llm.Chat(ctx, conversation, sestina.GenerateOptions{MaxTokens: 8}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if delta.Result != nil {
			fmt.Println("answered with at most 8 tokens:", delta.Result.OutputTokens <= 8)
		}
	}
	// Output: answered with at most 8 tokens: true
}
