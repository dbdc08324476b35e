// Package wit_types holds the types of WIT that Go has no word for, under the names that wit-bindgen's code uses.
package wit_types

// Option is a value that may be absent.
type Option[T any] struct {
	value   T
	present bool
}

// The numbers wit-bindgen's code knows the two cases by.
const (
	OptionNone uint8 = 0
	OptionSome uint8 = 1
)

func None[T any]() Option[T]        { return Option[T]{} }
func Some[T any](value T) Option[T] { return Option[T]{value, true} }

func (o Option[T]) IsSome() bool { return o.present }
func (o Option[T]) IsNone() bool { return !o.present }

func (o Option[T]) Tag() uint8 {
	if o.present {
		return OptionSome
	}
	return OptionNone
}

// Some is the value; it panics where there is none.
func (o Option[T]) Some() T {
	if !o.present {
		panic("the option is none")
	}
	return o.value
}

func (o Option[T]) SomeOr(other T) T {
	if o.present {
		return o.value
	}
	return other
}

// Result is a value or an error.
type Result[T, E any] struct {
	value T
	err   E
	bad   bool
}

const (
	ResultOk  uint8 = 0
	ResultErr uint8 = 1
)

func Ok[T, E any](value T) Result[T, E] { return Result[T, E]{value: value} }
func Err[T, E any](err E) Result[T, E]  { return Result[T, E]{err: err, bad: true} }

func (r Result[T, E]) IsOk() bool  { return !r.bad }
func (r Result[T, E]) IsErr() bool { return r.bad }

func (r Result[T, E]) Tag() uint8 {
	if r.bad {
		return ResultErr
	}
	return ResultOk
}

func (r Result[T, E]) Ok() T {
	if r.bad {
		panic("the result is an error")
	}
	return r.value
}

func (r Result[T, E]) Err() E {
	if !r.bad {
		panic("the result is no error")
	}
	return r.err
}

// Unit is what a function returns that returns nothing.
type Unit struct{}

type Tuple1[A any] struct{ F0 A }

type Tuple2[A, B any] struct {
	F0 A
	F1 B
}

type Tuple3[A, B, C any] struct {
	F0 A
	F1 B
	F2 C
}

type Tuple4[A, B, C, D any] struct {
	F0 A
	F1 B
	F2 C
	F3 D
}
