"""Crashes the interpreter by running bytecode that it made up."""


def add(a, b):
    code = add.__code__.replace(co_code=bytes([100, 255, 83, 0]) * 8, co_consts=(), co_stacksize=1)
    return type(add)(code, {})(a, b)
