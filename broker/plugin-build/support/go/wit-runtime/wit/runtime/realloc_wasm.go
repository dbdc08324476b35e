package wit_runtime

import "unsafe"

// realloc is how the host gets memory for arguments and for results of host functions. It is asked for new memory only.
//
//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	if old != nil || oldSize != 0 {
		panic("the host moves memory, which it has no reason to")
	}
	return Allocate(&arguments, uintptr(size), uintptr(align))
}
