//go:build !linux

package team

import "runtime"

func defaultThreads() int { return runtime.NumCPU() }
