/** Every file of shaders/ by its name without `.wgsl`: a module that scripts/build-lib.mjs writes, for where there is no addon. */
export declare const shaderTexts: Readonly<Record<string, string>>
