// A cell is cut into what the interpreter takes at once: one import, one declaration, or statements.

package main

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
)

type chunk struct {
	kind   token.Token // IMPORT, FUNC, TYPE, VAR, CONST; PACKAGE: a clause; else statements
	source string
	offset int // in the cell
}

// unmagic blanks the lines by which notebooks mark a cell as the body of main: "%%", "%main".
func unmagic(code string) string {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		if t := strings.TrimSpace(line); t == "%%" || t == "%main" || t == "%% main" {
			lines[i] = strings.Repeat(" ", len(line))
		}
	}
	return strings.Join(lines, "\n")
}

type tokenAt struct {
	tok    token.Token
	offset int
}

// split cuts at the semicolons, written or implied, that stand outside of all brackets.
func split(code string) []chunk {
	var s scanner.Scanner
	var part []tokenAt
	var chunks []chunk
	file := token.NewFileSet().AddFile("", -1, len(code))
	s.Init(file, []byte(code), func(token.Position, string) {}, 0)
	depth := 0
	for {
		pos, tok, _ := s.Scan()
		offset := file.Offset(pos)
		switch tok {
		case token.LPAREN, token.LBRACE, token.LBRACK:
			depth++
		case token.RPAREN, token.RBRACE, token.RBRACK:
			depth--
		}
		if tok == token.EOF || tok == token.SEMICOLON && depth <= 0 {
			if len(part) > 0 {
				chunks = add(chunks, chunk{kindOf(part), code[part[0].offset:offset], part[0].offset}, code)
			}
			part = nil
			if tok == token.EOF {
				return chunks
			}
			continue
		}
		part = append(part, tokenAt{tok, offset})
	}
}

// Statements that follow one another stay together.
func add(chunks []chunk, c chunk, code string) []chunk {
	if n := len(chunks); n > 0 && c.kind == token.ILLEGAL && chunks[n-1].kind == token.ILLEGAL {
		chunks[n-1].source = code[chunks[n-1].offset : c.offset+len(c.source)]
		return chunks
	}
	return append(chunks, c)
}

func kindOf(part []tokenAt) token.Token {
	switch t := part[0].tok; t {
	case token.IMPORT, token.TYPE, token.VAR, token.CONST, token.PACKAGE:
		return t
	case token.FUNC: // a declaration has a name, behind a receiver perhaps; a literal has none
		i := 1
		if len(part) > 1 && part[1].tok == token.LPAREN {
			for depth := 0; i < len(part); i++ {
				if part[i].tok == token.LPAREN {
					depth++
				} else if part[i].tok == token.RPAREN {
					if depth--; depth == 0 {
						i++
						break
					}
				}
			}
		}
		if i+1 < len(part) && part[i].tok == token.IDENT &&
			(part[i+1].tok == token.LPAREN || part[i+1].tok == token.LBRACK) {
			return t
		}
	}
	return token.ILLEGAL
}

const wrapHead = "package main\nfunc main() {\n"

// statements parses them; their offsets in source are those of the positions less len(wrapHead)+1.
func statements(source string) []ast.Stmt {
	f, err := parser.ParseFile(token.NewFileSet(), "", wrapHead+source+"\n}\n", parser.SkipObjectResolution)
	if err != nil || len(f.Decls) != 1 {
		return nil
	}
	return f.Decls[0].(*ast.FuncDecl).Body.List
}

func offsetOf(p token.Pos) int {
	return int(p) - 1 - len(wrapHead)
}

// importSpecs are the pairs of name (or "") and path of an import declaration.
func importSpecs(source string) [][2]string {
	var specs [][2]string
	f, err := parser.ParseFile(token.NewFileSet(), "", "package main\n"+source, parser.ImportsOnly)
	if err != nil {
		return nil
	}
	for _, s := range f.Imports {
		name := ""
		if s.Name != nil {
			name = s.Name.Name
		}
		specs = append(specs, [2]string{name, strings.Trim(s.Path.Value, "\"`")})
	}
	return specs
}

// silent says that the value of this call is nobody's interest: what it prints is.
func silent(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	switch f := call.Fun.(type) {
	case *ast.Ident:
		switch f.Name {
		case "print", "println", "panic", "delete", "close", "copy", "clear":
			return true
		}
	case *ast.SelectorExpr:
		p, ok := f.X.(*ast.Ident)
		return ok && p.Name == "fmt" && strings.Contains(f.Sel.Name, "rint") && !strings.HasPrefix(f.Sel.Name, "S")
	}
	return false
}
