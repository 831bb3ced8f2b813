"""Templates.

The language is that of bottle's SimpleTemplate. A template takes three steps:

    text --_Translator--> Python source, and where each line of it stands in the text
         --_localise----> a syntax tree with the text's own lines and columns: one
                          function whose local variables are the template's names
         --compile------> that function; it appends strings to a list

All text between two lines of code is one f-string. Its values are joined with NULs
and checked for the five characters of HTML together: one check for a row of a table.
Templates that need the dictionary of exec() (`global`, `eval`, `include` in a `def`
...) are run by exec(): slower, with the same output.

SECURITY: a template is a program, and there is no sandbox. Values are never parsed,
and a name only ever finds a regular file inside one of the template directories.
"""
