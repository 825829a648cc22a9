// Package chat turns a conversation into the exact prompt a model was trained
// on, by running the Jinja template published with its checkpoint.
//
// Problem. A chat template is a program that comes with a model file, and the
// conversation it reads comes from strangers. Two things must hold:
//
//  1. Running it is bounded. Every render has a step meter, a byte meter, an
//     output cap and depth caps (budget.go), so neither a hostile template nor
//     a hostile conversation can hold a CPU or grow memory.
//  2. User text never becomes a control token. Strings carry the provenance of
//     their bytes (text.go): only bytes written in the template, or given by
//     the operator as BOS/EOS, are trusted. Render returns segments, and the
//     tokenizer looks for special tokens in trusted segments alone.
//
// The second rule is why this is an interpreter of its own rather than a Jinja
// library: no library keeps provenance through trim, slices and concatenation.
//
// The language is the subset that published templates use, with the settings
// transformers uses: trim_blocks, lstrip_blocks, loop controls, an immutable
// sandbox, tojson without HTML escaping, raise_exception, strftime_now and
// {% generation %}. Where a template can see the difference, values behave as
// Python's do. testdata/gen_goldens.py records what jinja2 itself answers and
// TestGoldens holds us to it.
//
// Reading order: template.go (API), lexer.go, parser.go and parse_expr.go,
// stmt.go and expr.go (nodes, each with its evaluation), value.go, ops.go,
// then the tables: filters.go, tests.go, methods.go, globals.go.
package chat
