"""Templates.

The language is that of bottle's SimpleTemplate. A template takes three steps:

    text --_Translator--> Python source, and where each line of it stands in the text
         --_localise----> a syntax tree with the text's own lines and columns: one
                          function whose local variables are the template's names
         --compile------> that function; it fills a list with text, value, text ...

When it is through, all values are joined with NULs and escaped at once, if one of the
five characters of HTML is in them. The list then is the output.
Templates that need the dictionary of exec() (`global`, `eval`, `include` in a `def`
...) are run by exec(): slower, with the same output.

SECURITY: a template is a program, and there is no sandbox. Values are never parsed,
and a name only ever finds a regular file inside one of the template directories.
"""
