package fhirpath

import (
	"context"
	"sync"
	"time"

	"pulsegate/fhir"
)

// Limits bound an evaluation. A zero field means its default.
type Limits struct {
	Steps int // visited elements and compared values; the default is 2,000,000
	Items int // of a collection; the default is 100,000
	Bytes int // of a string that a function makes; the default is 1 MiB
}

const (
	defaultSteps = 2_000_000
	defaultItems = 100_000
	defaultBytes = 1 << 20
)

// Env gives an expression its constants and services. The zero Env is usable:
// functions that need a field that is not set fail, as described there.
type Env struct {
	// Resource is %resource. The default is the focus.
	Resource Value
	// RootResource is %rootResource, the container of a contained resource. The default
	// is Resource.
	RootResource Value
	// Context is %context. The default is the focus.
	Context Value
	// Variables holds other external constants by name, without the percent sign.
	Variables map[string]Collection
	// Resolve returns the resource that a reference names, or the zero Value if there is
	// none. Contained resources are found without it. A reference that it does not find
	// resolves to a Value of the type that the reference names, without elements, so that
	// "resolve() is Patient" needs no Resolve.
	Resolve func(ctx context.Context, reference string) (Value, error)
	// MemberOf reports whether a code, Coding or CodeableConcept is in a value set, for
	// memberOf(). Without it memberOf() fails.
	MemberOf func(ctx context.Context, v Value, valueSet string) (bool, error)
	// Subsumes reports whether code a subsumes code b, for subsumes() and subsumedBy().
	// Without it they fail.
	Subsumes func(ctx context.Context, a, b Value) (bool, error)
	// ConformsTo reports whether v conforms to a profile, for conformsTo(). Without it
	// conformsTo() decides by type for the base definitions of R4, and otherwise fails.
	ConformsTo func(ctx context.Context, v Value, profile string) (bool, error)
	// HTMLChecks reports whether a narrative keeps the rules for XHTML in FHIR, for
	// htmlChecks(). Without it htmlChecks() fails.
	HTMLChecks func(xhtml string) bool
	// Trace is called by trace(). The values must not be kept.
	Trace func(name string, values Collection)
	// Now is the time of now(), today() and timeOfDay(). If it is zero, they fail.
	Now    time.Time
	Limits Limits
}

// Terminology answers memberOf(), subsumes() and subsumedBy(), as MemberOf and Subsumes of
// Env do.
type Terminology interface {
	MemberOf(ctx context.Context, v Value, valueSet string) (bool, error)
	Subsumes(ctx context.Context, a, b Value) (bool, error)
}

// Use sets MemberOf and Subsumes. If t is nil, the functions fail.
func (e *Env) Use(t Terminology) {
	e.MemberOf, e.Subsumes = nil, nil
	if t != nil {
		e.MemberOf, e.Subsumes = t.MemberOf, t.Subsumes
	}
}

// evaluation is one evaluation of an expression.
type evaluation struct {
	ctx          context.Context
	env          *Env
	focus        Value
	steps        int
	items, bytes int
	free         [][]Value
	root         scope // of the whole expression
}

var evaluations = sync.Pool{New: func() any { return new(evaluation) }}

// scope holds the values of $this, $index and $total.
type scope struct {
	this  []Value
	index int
	total []Value
	loop  bool // $index is set
}

// op is a part of a compiled expression. eval appends its result to dst.
type op interface {
	eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error)
}

// failAt returns an error of an evaluation. Texts of resources must not be in it.
func failAt(pos int, format string, args ...any) error {
	args = append(args, pos+1)
	return fhir.Errorf(fhir.Unprocessable, "fhirpath.Evaluate", format+", at character %d of the expression", args...)
}

func costly(what string) error {
	return fhir.Errorf(fhir.TooCostly, "fhirpath.Evaluate",
		"the evaluation of the expression exceeds the limit of %s", what)
}

// step counts n units of work.
func (ev *evaluation) step(n int) error {
	before := ev.steps
	if ev.steps -= n; ev.steps < 0 {
		return costly("steps")
	}
	if before>>12 != ev.steps>>12 {
		if err := ev.ctx.Err(); err != nil {
			return &fhir.Error{Kind: fhir.Unavailable, Op: "fhirpath.Evaluate", Err: err}
		}
	}
	return nil
}

// costOfUnits is the number of steps that a conversion of units counts for.
const costOfUnits = 500

// cost counts the work of comparing two values in System beyond one step.
func (ev *evaluation) cost(x, y *Value) error {
	switch {
	case x.kind == KindString && y.kind == KindString:
		return ev.step(min(len(x.text), len(y.text)) / 256)
	case x.kind == KindQuantity && y.kind == KindQuantity && x.text != y.text:
		return ev.step(costOfUnits)
	}
	return nil
}

// size checks the size of a collection.
func (ev *evaluation) size(c []Value) error {
	if len(c) > ev.items {
		return costly("items of a collection")
	}
	return nil
}

// get returns an empty buffer for a collection; put takes it back.
func (ev *evaluation) get() []Value {
	if n := len(ev.free); n > 0 {
		b := ev.free[n-1]
		ev.free = ev.free[:n-1]
		return b
	}
	return make([]Value, 0, 16)
}

// put takes back a buffer. It must not be used afterwards.
func (ev *evaluation) put(b []Value) {
	if cap(b) <= 4096 {
		clear(b) // no references to Documents in the pool
		ev.free = append(ev.free, b[:0])
	}
}

// Expression is a compiled expression. It may be used by several goroutines.
type Expression struct {
	source string
	tree   *expr
	op     op
}

// Compile parses an expression of FHIRPath 2.0 and prepares it for evaluation.
func Compile(source string) (*Expression, error) {
	tree, err := parse(source)
	if err != nil {
		return nil, err
	}
	o, err := compiler{}.compile(tree)
	if err != nil {
		return nil, err
	}
	return &Expression{source: source, tree: tree, op: o}, nil
}

// For returns the expression prepared for a focus of one type of R4 only, without the
// operands of unions that begin at another type. It must not be evaluated on others.
func (e *Expression) For(typ string) (*Expression, error) {
	id, ok := model().byName[typ]
	if !ok {
		return nil, fhir.Errorf(fhir.Invalid, "fhirpath.For", "R4 has no such type")
	}
	o, err := compiler{this: id}.compile(e.tree)
	return &Expression{source: e.source, tree: e.tree, op: o}, err
}

// MustCompile is like Compile, but panics on an error. It is for expressions in the
// program's text.
func MustCompile(source string) *Expression {
	e, err := Compile(source)
	if err != nil {
		panic(err)
	}
	return e
}

func (e *Expression) String() string { return e.source }

// Evaluate evaluates the expression on focus and appends the result to dst, which may
// be nil. A nil env is the zero Env. The values of the result refer to the Documents
// of the focus and of the resolved references.
func (e *Expression) Evaluate(ctx context.Context, focus Value, env *Env, dst Collection) (Collection, error) {
	ev := begin(ctx, focus, env)
	defer ev.end()
	out, err := e.op.eval(ev, &ev.root, dst)
	if err != nil {
		return dst[:len(dst):len(dst)], err
	}
	return out, ev.size(out[len(dst):])
}

// Test evaluates the expression as a filter: it is met if the result is true. An empty
// result does not meet it, and a single item that is not a Boolean does.
func (e *Expression) Test(ctx context.Context, focus Value, env *Env) (bool, error) {
	t, err := e.truth(ctx, focus, env)
	return t == yes, err
}

// Holds evaluates the expression as an invariant: it is violated if the result is
// false. An empty result does not violate it; R4's invariant ref-1 has one for a
// Reference without the element reference.
func (e *Expression) Holds(ctx context.Context, focus Value, env *Env) (bool, error) {
	t, err := e.truth(ctx, focus, env)
	return t != no && err == nil, err
}

func (e *Expression) truth(ctx context.Context, focus Value, env *Env) (logic, error) {
	ev := begin(ctx, focus, env)
	defer ev.end()
	return ev.test(e.op, &ev.root, e.tree.pos)
}

var emptyEnv = &Env{} // read only

func begin(ctx context.Context, focus Value, env *Env) *evaluation {
	ev := evaluations.Get().(*evaluation)
	if env == nil {
		env = emptyEnv
	}
	ev.ctx, ev.env, ev.focus = ctx, env, focus
	ev.steps, ev.items, ev.bytes = env.Limits.Steps, env.Limits.Items, env.Limits.Bytes
	if ev.steps == 0 {
		ev.steps = defaultSteps
	}
	if ev.items == 0 {
		ev.items = defaultItems
	}
	if ev.bytes == 0 {
		ev.bytes = defaultBytes
	}
	ev.root.this = append(ev.get(), focus)
	return ev
}

// end returns the memory of the evaluation to the pool, without references to
// Documents.
func (ev *evaluation) end() {
	ev.put(ev.root.this)
	ev.ctx, ev.env, ev.focus, ev.root = nil, nil, Value{}, scope{}
	if len(ev.free) > 32 {
		clear(ev.free[32:])
		ev.free = ev.free[:32]
	}
	evaluations.Put(ev)
}

// resource returns %resource.
func (ev *evaluation) resource() Value {
	if !ev.env.Resource.IsZero() {
		return ev.env.Resource
	}
	return ev.focus
}

// rootResource returns %rootResource.
func (ev *evaluation) rootResource() Value {
	if !ev.env.RootResource.IsZero() {
		return ev.env.RootResource
	}
	return ev.resource()
}

// logic is a value of three-valued logic.
type logic uint8

const (
	unknown logic = iota
	yes
	no
)

func logical(b bool) logic {
	if b {
		return yes
	}
	return no
}

func (l logic) append(dst []Value) []Value {
	switch l {
	case yes:
		return append(dst, boolean(true))
	case no:
		return append(dst, boolean(false))
	}
	return dst
}

// truth returns a collection as a Boolean, by the rules for the evaluation of
// collections as single items: one item that is not a Boolean is true.
func truth(c []Value, pos int) (logic, error) {
	switch len(c) {
	case 0:
		return unknown, nil
	case 1:
		v := c[0].system()
		return logical(v.kind != KindBoolean || v.num == 1), nil
	}
	return unknown, failAt(pos, "expected a single item, not %d", len(c))
}

// test evaluates o as a condition.
func (ev *evaluation) test(o op, sc *scope, pos int) (logic, error) {
	out, err := o.eval(ev, sc, ev.get())
	if err != nil {
		return unknown, err
	}
	t, err := truth(out, pos)
	ev.put(out)
	return t, err
}

// single evaluates o to at most one item, in System.
func (ev *evaluation) single(o op, sc *scope, pos int) (v Value, ok bool, err error) {
	out, err := o.eval(ev, sc, ev.get())
	if err != nil {
		return Value{}, false, err
	}
	defer ev.put(out)
	switch len(out) {
	case 0:
		return Value{}, false, nil
	case 1:
		return out[0].system(), true, nil
	}
	return Value{}, false, failAt(pos, "expected a single item, not %d", len(out))
}
