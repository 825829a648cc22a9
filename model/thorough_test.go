//go:build real

package model_test

import "os"

// The whole product takes minutes: SESTINA_THOROUGH=1 go test -tags real ./model
func init() { thorough = os.Getenv("SESTINA_THOROUGH") != "" }
