"""Templates found, kept and rendered."""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from typing import (
    Callable,
    ClassVar,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from ..errors import TemplateError
from .compiler import (
    MAX_CACHED_TEMPLATES,
    Renderable,
    TemplateSource,
    compile_template,
    own_names,
    take_text,
)

TEMPLATE_SYNTAX = "<% %> % {{ }}"  # as bottle writes it: block, line, expression
TEMPLATE_EXTENSIONS = (".tpl", ".html")

_Directory = Union[str, "os.PathLike[str]"]
_Directories = Tuple[_Directory, ...]


def _unbound_name(error: NameError) -> Optional[str]:
    """Return the name that a template used, but that it was not given."""
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    loader = traceback and traceback.tb_frame.f_globals.get("__loader__")
    found = re.search(r"(?:local|free) variable '(\w+)'", str(error))
    return found.group(1) if found and isinstance(loader, TemplateSource) else None


def directories_of(path: Union[_Directory, Sequence[_Directory]]) -> _Directories:
    """Return the directories of a path, which may be a single one."""
    if type(path) is tuple:  # PERF: to ask os.PathLike takes 0.2 us, for each include
        return path
    return (path,) if isinstance(path, (str, os.PathLike)) else tuple(path)


class _TemplateFile(NamedTuple):
    real: str
    name: str
    directory: str
    state: Tuple[int, ...]


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _template_file(directory: str, name: str, state: Tuple[int, ...]) -> _TemplateFile:
    """Return the file with its real path; it is looked for again with a new state."""
    root = os.path.realpath(directory)
    real = os.path.realpath(os.path.join(directory, name))
    # SECURITY: links are resolved first, and whole segments are compared (CWE-22).
    if os.path.commonpath((root, real)) != root or not stat.S_ISREG(state[0]):
        raise FileNotFoundError
    return _TemplateFile(real, name, directory, state)


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _candidates(
    name: str, path: _Directories, engines: Tuple[str, ...]
) -> List[Tuple[str, str, str]]:
    """Return all files that `name` may mean, in order, as (path, file, directory)."""
    added = (*TEMPLATE_EXTENSIONS, *engines)
    return [
        (f"{directory}{os.sep}{name}{extension}", name + extension, directory)
        for directory in [os.fspath(one) for one in path]
        for extension in (("", *added) if "." in name else (*added, ""))
    ]


def _locate_template(
    cls: Type[Template], name: str, path: _Directories
) -> _TemplateFile:
    """Return the first regular file that `name` means and that `path` contains.

    SECURITY: the error is the same for what is outside and for what does not exist.
    """
    # PERF: the names are put together once: 0.5 of the 4.1 us of a look at the disk.
    for where, file, directory in _candidates(name, path, tuple(cls.engines)):
        try:
            found = os.stat(where)
            state = found.st_mode, found.st_ino, found.st_mtime_ns, found.st_size
            return _template_file(directory, file, state)
        except (OSError, ValueError):
            continue
    directories = [os.fspath(directory) for directory in path]
    places = ", ".join(map(os.path.abspath, directories)) or "an empty path"
    hint = "; a text is rendered by Template(text).render(...)"
    hint = "" if {"\n", "{", "%"}.isdisjoint(name) else hint
    raise TemplateError(f"template {name[:200]!r} not found in {places}{hint}")


def _open_template(
    cls: Type[Template],
    file: _TemplateFile,
    path: _Directories,
    cache: Optional[bool],
) -> Renderable:
    engine = cls.engines.get(os.path.splitext(file.name)[1])
    if engine is not None:
        return engine(file.name, file.directory)
    with open(file.real, "rb") as opened:
        template = cls(opened.read(), filename=file.real, path=path)
    template.cache = cache
    return template


# Keyed on the file's time and size, among others.
_kept_template = lru_cache(maxsize=MAX_CACHED_TEMPLATES)(_open_template)


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _required_template(
    cls: Type[Template], name: str, path: _Directories
) -> Renderable:
    return _open_template(cls, _locate_template(cls, name, path), path, True)


def _find_template(
    cls: Type[Template], name: str, path: _Directories, cache: Optional[bool]
) -> Renderable:
    if cache:
        return _required_template(cls, name, path)  # type: ignore[arg-type]
    file = _locate_template(cls, name, path)
    if cache is False:
        return _open_template(cls, file, path, cache)
    # mypy does not see that a class is hashable.
    return _kept_template(cls, file, path, cache)  # type: ignore[arg-type]


class Execution:
    """One template on its way into the output, with what its helpers need."""

    __slots__ = ("given", "layout", "output", "template", "wants_names")

    def __init__(
        self,
        template: Template,
        given: Dict[str, object],
        output: List[str],
        wants_names: bool = False,
    ) -> None:
        self.template = template
        self.given = given
        self.output = output
        self.wants_names = wants_names
        self.layout: Optional[Tuple[str, Dict[str, object]]] = None

    def run(self) -> Dict[str, object]:
        """Render, then the layout around it; return the names and values at the end."""
        start = len(self.output)
        names = self.template._code(self, self.given, self.output.extend)
        if self.layout is None:
            return names
        layout, variables = self.layout
        variables["base"] = take_text(self.output[start:])
        del self.output[start:]
        return self.include(names, layout, **variables)

    def include(
        self, names: Dict[str, object], name: str, /, **variables: object
    ) -> Dict[str, object]:
        """Render the template `name` here; it sees all variables of this one.

        `names` are those that this one has bound. If the result is used, they are all
        that it has, with those of the machinery.
        """
        wants_names = "_px_extend" in names
        names = own_names(names) if wants_names else names
        given = {**self.given, **names, **variables}
        cls, path = type(self.template), directories_of(self.template.path)
        template = _find_template(cls, name, path, self.template.cache)
        if isinstance(template, cls):
            execution = Execution(template, given, self.output, wants_names)
            names = execution.run()
            return own_names(names) if wants_names else names
        self.output += template.render(**given), ""
        return given

    def rebase(self, names: object, name: str, /, **variables: object) -> None:
        """Have the template `name` rendered around this one, which is its `base`."""
        self.layout = name, variables

    def get(
        self, names: Dict[str, object], name: str, default: object = None, /
    ) -> object:
        """Return a variable, given or assigned, or the default."""
        return names.get(name, self.given.get(name, default))

    def defined(self, names: Dict[str, object], name: str, /) -> bool:
        """Return whether there is a variable of this name."""
        return name in self.given or name in names


class Template:
    """A template in the language of bottle's SimpleTemplate, compiled.

    Args:
        source: the text, or bytes in `encoding`. A program: never a client's text.
        filename: without `source`, the template to look up in `path`; else the name
            that errors show.
        path: directories (one or several, str or path) in which this template and those
            it includes are looked up; `Template.path` when None.
        syntax: the five marks, separated by spaces; `"<% %> % {{ }}"` when None.

    Raises:
        TemplateError: not found, not decoded, or wrong; names the template's line.
    """

    #: Where templates are looked up; relative ones start at the working directory.
    path: Union[_Directory, Sequence[_Directory]] = ("views", "templates")
    #: None: kept in memory, and checked against the file's state at each use.
    #: True: kept, and the file never looked at again. False: read at each use.
    cache: Optional[bool] = None
    #: What files and bytes are decoded from; a byte order mark is dropped.
    encoding: str = "utf-8-sig"
    #: Variables that every template has.
    defaults: ClassVar[Dict[str, object]] = {}
    #: Other engines: extension to a function of (name, directory) -> Renderable.
    engines: ClassVar[Dict[str, Callable[[str, str], Renderable]]] = {}

    def __init__(
        self,
        source: Union[str, bytes, None] = None,
        *,
        filename: Optional[str] = None,
        path: Union[_Directory, Sequence[_Directory], None] = None,
        syntax: Optional[str] = None,
    ) -> None:
        self.path = directories_of(self.path if path is None else path)
        if source is None:
            if filename is None:
                raise TypeError("Template() takes the source, or filename=")
            filename = _locate_template(type(self), filename, self.path).real
            with open(filename, "rb") as file:
                source = file.read()
        if isinstance(source, bytes):
            try:
                source = source.decode(self.encoding)
            except UnicodeDecodeError as error:
                name = self.encoding.upper().replace("-SIG", "")
                raise TemplateError(f"{filename}: not {name}: {error}") from None
        self.filename = filename or f"template {hash(source) & 0xFFFFFFFF:08x}"
        self._code = compile_template(source, self.filename, syntax or TEMPLATE_SYNTAX)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        path: Union[_Directory, Sequence[_Directory], None] = None,
        cache: Optional[bool] = None,
    ) -> Renderable:
        """Return the template `name`, with or without .tpl or .html at its end.

        `path` and `cache` stand for `Template.path` and `Template.cache` when None.

        Raises:
            TemplateError: no regular file of that name there, or a wrong template.
        """
        directories = directories_of(cls.path if path is None else path)
        cache = cls.cache if cache is None else cache
        return _find_template(cls, name, directories, cache)

    def render(self, /, *mappings: Mapping[str, object], **variables: object) -> str:
        """Return the text, rendered with the variables; keywords win over mappings.

        An exception of the template's code passes through, with the template's file and
        line in its traceback.
        """
        given = {**self.defaults}
        for mapping in mappings:
            given.update(mapping)
        given.update(variables)
        output: List[str] = []
        try:
            Execution(self, given, output).run()
        except NameError as error:
            name = _unbound_name(error)
            if name is None:
                raise
            missing = NameError(f"name {name!r} is not defined")
            raise missing.with_traceback(error.__traceback__) from None
        return take_text(output)


def template(
    name: Union[str, Template], /, *mappings: Mapping[str, object], **variables: object
) -> str:
    """Return the template `name` of `Template.path`, rendered with the variables.

    SECURITY: this takes a name and never a text, unlike bottle's: a text that came from
    a client would be run as a program. `Template(text).render(...)` is for texts.

    Raises:
        TemplateError: as `Template.load`.
    """
    found = Template.load(name) if isinstance(name, str) else name
    for mapping in mappings:
        variables = {**mapping, **variables}
    return found.render(**variables)
