package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Open opens the model at path: a .gguf file (the first part, where it is split), a .safetensors file beside its
// config.json, a folder with config.json and safetensors weights, or a folder with exactly one GGUF model.
// The files stay open until Close.
func Open(path string) (c *Checkpoint, err error) {
	c = &Checkpoint{byName: map[string]int{}}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged in a way that the loader does not know: %v", p)
		}
		if err != nil {
			c.Close()
			c, err = nil, fmt.Errorf("cannot open model %s: %w", path, err)
		}
	}()
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return c, err
	case info.IsDir():
		return c, c.openFolder(path)
	case strings.EqualFold(filepath.Ext(path), ".gguf"), isGGUF(path):
		return c, c.openGGUF(path)
	case strings.EqualFold(filepath.Ext(path), ".safetensors"):
		return c, c.openHF(filepath.Dir(path), filepath.Base(path))
	}
	return c, errors.New("neither a GGUF or .safetensors file nor a folder")
}

// isGGUF looks for the format's magic, for files that are named by their digest.
func isGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "GGUF"
}

const indexName = "model.safetensors.index.json"

func (c *Checkpoint) openFolder(folder string) error {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(folder, name))
		return err == nil
	}
	switch {
	case has("config.json") && has("model.safetensors"):
		return c.openHF(folder, "model.safetensors")
	case has("config.json") && has(indexName):
		return c.openSharded(folder)
	}
	ggufs, err := models(folder, ".gguf")
	if err != nil {
		return err
	}
	weights, err := models(folder, ".safetensors")
	switch {
	case err != nil:
		return err
	case has("config.json") && len(weights) == 1:
		return c.openHF(folder, weights[0])
	case len(ggufs) == 1:
		return c.openGGUF(filepath.Join(folder, ggufs[0]))
	case len(ggufs) > 1:
		return fmt.Errorf("the folder holds several models (%s): name one of them", strings.Join(ggufs, ", "))
	case has("pytorch_model.bin") || has("pytorch_model.bin.index.json"):
		return errors.New("the weights are pickled (pytorch_model.bin), which can run code and is not read: use the safetensors form")
	case !has("config.json"):
		return errors.New("the folder has neither config.json nor a .gguf file")
	}
	return fmt.Errorf("the folder has config.json but neither model.safetensors nor %s", indexName)
}

// models lists the files of that extension, of split GGUFs the first part only.
func models(folder, ext string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !strings.EqualFold(filepath.Ext(e.Name()), ext) {
			continue
		}
		if part := splitName.FindStringSubmatch(e.Name()); part != nil && part[2] != "00001" {
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// openHF reads config.json and one safetensors file beside it.
func (c *Checkpoint) openHF(folder, weights string) error {
	if err := c.readConfig(folder); err != nil {
		return err
	}
	return c.addSafetensors(filepath.Join(folder, weights))
}

// maxConfig bounds config.json; published ones have a few kilobytes.
const maxConfig = 4 << 20

func (c *Checkpoint) readConfig(folder string) error {
	data, err := readSmall(filepath.Join(folder, "config.json"), maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no config.json beside the weights")
	}
	if err != nil {
		return err
	}
	c.format, c.folder = HF, folder
	c.config, err = ParseConfig("config.json", data)
	return err
}

func (c *Checkpoint) addSafetensors(path string) error {
	s, err := openSource(path)
	if err != nil {
		return err
	}
	c.sources = append(c.sources, s)
	tensors, err := readSafetensors(s.file, s.size())
	if err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	for i := range tensors {
		tensors[i].source = len(c.sources) - 1
	}
	if err := c.add(tensors); err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	return nil
}

// maxIndex bounds the shard index; the largest published one has 9 MB.
const maxIndex = 64 << 20

// openSharded reads config.json, the index, and each shard that the index names. Every tensor of the index must be found
// in the shard that the index says.
func (c *Checkpoint) openSharded(folder string) error {
	if err := c.readConfig(folder); err != nil {
		return err
	}
	data, err := readSmall(filepath.Join(folder, indexName), maxIndex)
	if err != nil {
		return err
	}
	index, err := ParseConfig(indexName, data)
	if err != nil {
		return err
	}
	weightMap, ok := index.values["weight_map"].(map[string]any)
	if !ok || len(weightMap) == 0 {
		return fmt.Errorf("%s has no weight_map", indexName)
	}
	var shards []string
	for name, v := range weightMap {
		shard, ok := v.(string)
		if !ok || !plainName(shard) || filepath.Ext(shard) != ".safetensors" {
			return fmt.Errorf("%s: tensor %.80q is said to be in %.80q, which is no name of a .safetensors file in the folder",
				indexName, name, fmt.Sprint(v))
		}
		shards = append(shards, shard)
	}
	slices.Sort(shards)
	for _, shard := range slices.Compact(shards) {
		if err := c.addSafetensors(filepath.Join(folder, shard)); err != nil {
			return err
		}
	}
	for name, shard := range weightMap {
		t, ok := c.Lookup(name)
		if !ok || c.sources[t.source].name() != shard {
			return fmt.Errorf("%s: tensor %.80q is not in %v", indexName, name, shard)
		}
	}
	return nil
}

// splitName matches the parts of a split GGUF, numbered from 1.
var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// openGGUF reads a GGUF file and, where split.count says so, the other parts beside it. The metadata is the first part's.
func (c *Checkpoint) openGGUF(path string) error {
	c.format = GGUF
	config, err := c.addGGUF(path)
	if err != nil {
		return err
	}
	c.config = config
	r := config.Reader()
	parts, part, total := r.IntOr("split.count", 0), r.IntOr("split.no", 0), r.IntOr("split.tensors.count", 0)
	if err := r.Err(); err != nil {
		return err
	}
	if parts <= 1 {
		return nil
	}
	match := splitName.FindStringSubmatch(filepath.Base(path))
	if match == nil || match[3] != fmt.Sprintf("%05d", parts) {
		return fmt.Errorf("the file is part %d of %d but its name does not end in -%05d-of-%05d.gguf: restore the name it was published under",
			part+1, parts, part+1, parts)
	}
	if number, _ := strconv.Atoi(match[2]); part != 0 || number != 1 {
		return fmt.Errorf("this is part %s of %s: open the first part", match[2], match[3])
	}
	for i := 1; i < parts; i++ {
		name := fmt.Sprintf("%s-%05d-of-%s.gguf", match[1], i+1, match[3])
		if err := c.addPart(filepath.Join(filepath.Dir(path), name), i, parts); err != nil {
			return err
		}
	}
	if total != 0 && total != len(c.tensors) {
		return fmt.Errorf("the parts hold %d tensors, the first says %d", len(c.tensors), total)
	}
	return nil
}

func (c *Checkpoint) addPart(path string, part, parts int) error {
	config, err := c.addGGUF(path)
	if err != nil {
		return err
	}
	r := config.Reader()
	if no, count := r.Int("split.no"), r.Int("split.count"); r.Err() == nil && (no != part || count != parts) {
		return fmt.Errorf("%s says it is part %d of %d", filepath.Base(path), no+1, count)
	}
	return r.Err()
}

func (c *Checkpoint) addGGUF(path string) (Config, error) {
	s, err := openSource(path)
	if err != nil {
		return Config{}, err
	}
	c.sources = append(c.sources, s)
	values, tensors, err := readGGUF(s.file, s.size())
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", s.name(), err)
	}
	for i := range tensors {
		tensors[i].source = len(c.sources) - 1
	}
	if err := c.add(tensors); err != nil {
		return Config{}, fmt.Errorf("%s: %w", s.name(), err)
	}
	return Config{origin: s.name(), values: values}, nil
}
