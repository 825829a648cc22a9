//go:build !amd64 || purego

package cpuinfo

func brand() string { return "" }
