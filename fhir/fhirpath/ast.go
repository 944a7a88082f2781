package fhirpath

// exprKind says what an expr is.
type exprKind uint8

const (
	exprLiteral  exprKind = iota // value
	exprEmpty                    // {}
	exprMember                   // name, of left or, without left, of $this
	exprFunction                 // name and args, of left or, without left, of $this
	exprVariable                 // $this, $index or $total, by name
	exprConstant                 // %name
	exprIndex                    // left[args[0]]
	exprUnary                    // name is "+" or "-"
	exprBinary                   // name is the operator
	exprType                     // left is typ, or left as typ, by name
)

// expr is a node of the syntax tree.
type expr struct {
	kind  exprKind
	pos   int // of the operator or the name, as a byte offset
	depth int
	name  string
	left  *expr
	args  []*expr
	value Value
	typ   typeSpec
	// delimited is set for a member in backquotes, which is never a type's name.
	delimited bool
}

// typeSpec is a type specifier: a name with an optional namespace.
type typeSpec struct {
	namespace, name string
	id              typeID // of the type in FHIR, or noType
	system          Kind   // of the type in System, or KindElement
}

// spec resolves a type specifier. A name without a namespace is looked for in FHIR,
// then in System; Quantity is in both.
func spec(namespace, name string) (typeSpec, bool) {
	t := typeSpec{namespace: namespace, name: name, id: noType, system: KindElement}
	if namespace == "" || namespace == "FHIR" {
		if id, ok := model().byName[name]; ok {
			t.id = id
		}
	}
	if namespace == "" || namespace == "System" {
		for k, n := range systemNames {
			if n == name {
				t.system = Kind(k)
			}
		}
	}
	return t, t.id != noType || t.system != KindElement || namespace == "System"
}
