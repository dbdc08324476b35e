// Package wit_runtime is what the code of wit-bindgen calls to hand memory over: to the host, and for what the host writes.
package wit_runtime

import (
	"runtime"
	"unsafe"
)

// Allocate returns memory of this size and alignment that stays where it is until pinner lets go of it.
func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	if size == 0 {
		return nil
	}
	// Words of eight bytes are aligned for every type of WIT, whose alignments are at most that.
	words := make([]uint64, (size+7)/8)
	pointer := unsafe.Pointer(unsafe.SliceData(words))
	pinner.Pin(pointer)
	return pointer
}

// arguments keeps what the host has written for a call until Unpin.
var arguments runtime.Pinner

// Unpin lets go of the arguments of a call; the code of wit-bindgen calls it when it has read them.
func Unpin() {
	arguments.Unpin()
}
