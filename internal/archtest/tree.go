package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Module is the path of the module's root package.
const Module = "sestina"

// Tree is what the rules look at.
type Tree struct {
	fsys  fs.FS
	Pkgs  map[string]*Pkg // by folder; "" is the root
	Files []*File
	Tests map[string][]string // TestX, FuzzX, BenchmarkX → folders that define it
}

// Pkg is one folder's Go files, tests apart.
type Pkg struct {
	Name    string
	Imports []Import // without tests
	Tests   []Import
}

// Import is one import, or one use of time.Now, which counts as one.
type Import struct{ Path, At string }

// File is one source file.
type File struct {
	Path      string
	Test      bool
	Generated bool
	Separate  bool // in a folder that the go tool ignores: a generator with its own module
	Lines     int
	Tags      []string
	Funcs     []Func
	Named     []string // tests that comments speak of
}

// Func is a function's extent.
type Func struct {
	Name  string
	Lines int
}

// Load parses all Go files below a root and the constraints of assembly files.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{fsys: fsys, Pkgs: map[string]*Pkg{}, Tests: map[string][]string{}}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a file of a test or an editor that has gone again
			return nil
		case err != nil:
			return err
		case d.IsDir():
			if base := d.Name(); name != "." && (base[0] == '.' || base == "testdata" || base == "node_modules" || base == "vendor") {
				return fs.SkipDir
			}
			return nil
		case strings.HasSuffix(name, ".go"):
			return t.goFile(name)
		case strings.HasSuffix(name, ".s"):
			return t.asmFile(name)
		}
		return nil
	})
	if err == nil && len(t.Pkgs) == 0 {
		err = fmt.Errorf("no Go packages found")
	}
	return t, err
}

func (t *Tree) asmFile(name string) error {
	data, err := fs.ReadFile(t.fsys, name)
	if err != nil {
		return err
	}
	f := &File{Path: name, Generated: strings.Contains(firstLine(string(data)), "Code generated")}
	for line := range strings.Lines(string(data)) {
		f.Lines++
		f.addTags(line)
	}
	t.Files = append(t.Files, f)
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

var testName = regexp.MustCompile(`\b(Test|Fuzz|Benchmark)[A-Z]\w+`)

func (t *Tree) goFile(name string) error {
	data, err := fs.ReadFile(t.fsys, name)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, name, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &File{
		Path: name, Test: strings.HasSuffix(name, "_test.go"), Generated: ast.IsGenerated(tree),
		Separate: slices.ContainsFunc(strings.Split(path.Dir(name), "/"), func(s string) bool { return s[0] == '_' }),
		Lines:    set.File(tree.FileStart).LineCount(),
	}
	for _, group := range tree.Comments {
		for _, c := range group.List {
			f.addTags(c.Text)
			f.Named = append(f.Named, testName.FindAllString(c.Text, -1)...)
		}
	}
	for _, d := range tree.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			f.Funcs = append(f.Funcs, Func{fn.Name.Name, set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1})
			if f.Test && fn.Recv == nil && testName.FindString(fn.Name.Name) == fn.Name.Name {
				t.Tests[fn.Name.Name] = append(t.Tests[fn.Name.Name], path.Dir(name))
			}
		}
	}
	t.Files = append(t.Files, f)
	if !f.Separate {
		t.addImports(f, set, tree)
	}
	return nil
}

func (f *File) addTags(line string) {
	if !constraint.IsGoBuild(strings.TrimSpace(line)) {
		return
	}
	expr, err := constraint.Parse(strings.TrimSpace(line))
	if err != nil {
		f.Tags = append(f.Tags, err.Error())
		return
	}
	expr.Eval(func(tag string) bool { f.Tags = append(f.Tags, tag); return true })
}

func (t *Tree) addImports(f *File, set *token.FileSet, tree *ast.File) {
	dir := path.Dir(f.Path)
	if dir == "." {
		dir = ""
	}
	p := t.Pkgs[dir]
	if p == nil {
		p = &Pkg{}
		t.Pkgs[dir] = p
	}
	p.Name = strings.TrimSuffix(tree.Name.Name, "_test")
	list := &p.Imports
	if f.Test {
		list = &p.Tests
	}
	at := func(pos token.Pos) string { return fmt.Sprintf("%s:%d", f.Path, set.Position(pos).Line) }
	for _, spec := range tree.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			*list = append(*list, Import{name, at(spec.Pos())})
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Now" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
				*list = append(*list, Import{"time.Now", at(s.Pos())})
			}
		}
		return true
	})
}

// ours turns an import path into a folder of this module.
func ours(importPath string) (folder string, ok bool) {
	if importPath == Module {
		return "", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}
