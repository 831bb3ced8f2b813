"""Templates.

The language is that of bottle's SimpleTemplate. A template takes three steps:

    text --_Translator--> Python source, and where each line of it stands in the text
         --_localise----> a syntax tree with the text's own lines and columns: one
                          function whose local variables are the template's names
         --compile------> that function; it appends strings to a list

Between two lines of code all text is one f-string, and its values are checked for the
five characters of HTML together, joined with NULs: one check for a row of a table.
What needs the dictionary of exec() (`global`, `eval`, `include` in a `def` ...) is
run by exec(): slower, the same output.

SECURITY: a template is a program, and there is no sandbox. Values are never parsed,
and a name only ever finds a regular file inside one of the template directories.
"""
