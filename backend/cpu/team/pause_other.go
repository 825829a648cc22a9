//go:build !(amd64 || arm64) || purego

package team

func pause() {}
