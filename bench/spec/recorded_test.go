package spec

import (
	"compress/gzip"
	"encoding/json"
	"os"
)

// recorded is one prompt of bench/prompts and what SmolLM2-135M-Instruct Q4_1
// answered, as token ids: greedily, and drawn at temperature 1 with some seeds.
type recorded struct {
	Set    string    `json:"set"`
	Prompt []int32   `json:"prompt"`
	Greedy []int32   `json:"greedy"`
	Drawn  [][]int32 `json:"drawn"`
}

const (
	recordedFile = "testdata/answers.json.gz"
	recordedReps = 4   // seeds
	recordedLen  = 128 // longest answer in tokens
)

func readRecorded() (out []recorded, err error) {
	f, err := os.Open(recordedFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return out, json.NewDecoder(z).Decode(&out)
}
