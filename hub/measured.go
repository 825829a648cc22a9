package hub

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// What was measured of a model on this machine is kept beside the models, one
// small file a key: measured/<hash of the key>.json. It can be lost at any time
// and is measured again; nothing refers to it.

const maxMeasured = 1 << 20

func measuredPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "measured/" + hex.EncodeToString(sum[:12]) + ".json"
}

// Measured returns what was kept under key, nil when there is nothing.
func (s *Store) Measured(key string) ([]byte, error) {
	root, err := s.open(false)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := root.Open(measuredPath(key))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMeasured+1))
	if err == nil && len(data) > maxMeasured {
		err = fmt.Errorf("%s has more than %d bytes", measuredPath(key), maxMeasured)
	}
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return data, nil
}

// KeepMeasured keeps data under key, in place of what was there: whole or not at
// all. A store that does not exist is not made for it.
func (s *Store) KeepMeasured(key string, data []byte) error {
	root, err := s.open(false)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, dir := range []string{"tmp", "measured"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("hub: %w", err)
		}
	}
	tmp := "tmp/measured-" + rand.Text()
	err = root.WriteFile(tmp, data, 0o644)
	if err == nil {
		err = root.Rename(tmp, measuredPath(key))
	}
	if err != nil {
		root.Remove(tmp)
		return fmt.Errorf("hub: %w", diskError(err))
	}
	return nil
}
