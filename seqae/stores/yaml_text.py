"""The one reader of YAML: parameter files, `-p` and records. It refuses what YAML would read as something else."""

import re
from typing import Any, NamedTuple

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml it is 7 times as fast
DEEPEST = 100  # levels of nesting
_MOST_REPEATED = 10  # aliases may make a text so many times as long, and
_FREE = 10_000  # so many characters longer
_OPENERS = re.compile(r"[\[{:?-]")  # a level of nesting takes one of these characters


class UnfitYamlError(yaml.YAMLError):
    """A text that is YAML but is not read, because it would mean something else than it says, or have no bound."""


class _Sizes(NamedTuple):
    whole: dict[int, int]  # by id of a node: its characters, aliases written out; 0 while it is measured
    own: list[int]  # of each node: the characters that are its own


def load_yaml(text: str) -> Any:
    """Parse one document of YAML safely; None if it is empty. Raises yaml.YAMLError for anything else.

    Raises UnfitYamlError for a key that stands twice in a mapping, a number that YAML reads to base 8 or 60 (010 is
    8, 1:30 is 90), what YAML takes for a value that it cannot be (a date of month 13), aliases that repeat too much or
    contain themselves, and nesting deeper than DEEPEST.
    """
    if len(_OPENERS.findall(text)) > 10 * DEEPEST:
        _check_depth(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        sizes = _Sizes({}, [])
        if _measured(node, sizes, 0) > _MOST_REPEATED * sum(sizes.own) + _FREE:
            raise UnfitYamlError("its aliases repeat what they name without bound: write it out, or leave them out")
        return loader.construct_document(node)
    except (ValueError, OverflowError) as error:  # a date of month 13, for example
        raise UnfitYamlError(str(error)) from None
    except (KeyError, AttributeError, TypeError):  # what PyYAML makes of !!bool maybe, !!timestamp 3
        raise UnfitYamlError("a value does not fit its tag (!!NAME before it): leave the tag out") from None
    except RecursionError:
        raise UnfitYamlError(f"it is nested more than {DEEPEST} levels deep") from None
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    # By events: libyaml's own composer would use up the stack.
    depth = 0
    events: Any = yaml.parse(text, Loader=_Loader)
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UnfitYamlError(f"line {event.start_mark.line + 1}: it is nested more than {DEEPEST} levels deep")


def _measured(node: Any, sizes: _Sizes, depth: int) -> int:
    # The characters of a node and of all below it.
    line = node.start_mark.line + 1
    if (known := sizes.whole.get(id(node))) is not None:
        if known == 0:
            raise UnfitYamlError(f"line {line}: an alias stands in what it names")
        return known
    if depth > DEEPEST:
        raise UnfitYamlError(f"line {line}: it is nested more than {DEEPEST} levels deep")
    sizes.whole[id(node)] = 0
    size = own = 1
    if isinstance(node, yaml.ScalarNode):
        _check_number(node, line)
        size = own = 1 + len(node.value)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        size += sum(_measured(part, sizes, depth + 1) for pair in node.value for part in pair)
    else:
        size += sum(_measured(part, sizes, depth + 1) for part in node.value)
    sizes.own.append(own)
    sizes.whole[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], Any] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
            lines = f"lines {first[key.tag, key.value].start_mark.line + 1} and {key.start_mark.line + 1}"
            raise UnfitYamlError(f"{lines}: {key.value} is given twice: keep one of them")


def _check_number(node: yaml.ScalarNode, line: int) -> None:
    if not node.tag.endswith((":int", ":float")):
        return
    base = 8 if re.fullmatch(r"[-+]?0[0-7_]+", node.value) else 60 if ":" in node.value else 10
    if base != 10:
        raise UnfitYamlError(
            f"line {line}: YAML reads {node.value} to base {base}: write a decimal number, or quote it if it is text"
        )
