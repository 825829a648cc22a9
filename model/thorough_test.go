//go:build real

package model_test

func init() { thorough = true }
